"""Train small toy networks on fresh samples at the speed of the arithmetic: one network per thread, all of it in cache.

    h = act(x V),  y = act(h Wᵀ + b),  loss = Σ_j I_j (y_j − t_j)²,  t = x or |x|,  act(z) = z or slope · z below 0

A batch is cut into tiles of sixteen samples, each number of a sample in its own lane, so that every product of the
forward and the backward pass is a sum of (one weight) × (sixteen lanes). For one block of tiles after another:

    1. draw     xoshiro128+ in every lane; one draw decides whether a feature is active and, rescaled, its value
    2. forward  h, then z = h Wᵀ
    3. judge    loss, e = ∂loss/∂z, gradient of the bias
    4. back     g = e W · act'(h);  ∂W += eᵀ h,  ∂V += xᵀ g

then one step of Adam, AdamW or SGD with torch's meaning of every setting. The readable reference is the torch path of
`worlds/fit`; tests compare gradients, steps, moments and final losses.

Source of the generator: Blackman and Vigna 2021, "Scrambled linear pseudorandom number generators".
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np

from .lanes import (
    add,
    either,
    fused,
    kernel,
    leak,
    load,
    magnitude,
    multiply,
    plus,
    real,
    shifted,
    splat,
    store,
    subtract,
    total,
    totals,
    within,
)  # fmt: skip

LANES = 16
SGD, ADAM, ADAMW = 0, 1, 2
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Plan(NamedTuple):
    """What is the same for every instance."""

    n: int
    m: int
    batch: int
    tiles: int
    """Tiles of sixteen samples that are worked on together; even."""
    tied: bool
    absolute: bool
    """Whether the target is |x|."""
    hidden: np.float32
    """Slope of the hidden activation below 0: 1 linear, 0 ReLU."""
    slopes: np.ndarray
    """Slope of the output below 0 at every step, float32."""
    rates: np.ndarray
    """Learning rate at every step, float64."""
    optimizer: int
    decay: float


class Law(NamedTuple):
    """Sampling tables per instance and feature: active where low ≤ draw − low < span, value = scale · (draw − low) + shift."""

    low: np.ndarray
    span: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    importance: np.ndarray
    source: np.ndarray
    """Which shared draw decides about a feature, −1 its own; one row for all instances."""
    fresh: np.ndarray
    """Whether the value needs a draw of its own."""


class State(NamedTuple):
    """What training changes, per instance."""

    theta: np.ndarray
    """W, then V unless tied, then b, as one row."""
    mean: np.ndarray
    square: np.ndarray
    words: np.ndarray
    """Four words of every lane's generator."""


@kernel
@no_type_check
def train(plan, law, state, span, update, trace):
    """Run instances span[0]..span[1] through steps span[2]..span[3]; `trace` [instances, steps] gets the batch losses.

    Without `update` the losses are measured and nothing changes but the generators.
    """
    n, m, tiles = plan.n, plan.m, plan.tiles
    x, e = np.empty(tiles * n * LANES, np.float32), np.empty(tiles * n * LANES, np.float32)
    h, g = np.empty(tiles * m * LANES, np.float32), np.empty(tiles * m * LANES, np.float32)
    valid, shared = np.ones(tiles * LANES, np.float32), np.empty((1 + law.source.max()) * tiles * LANES, np.uint32)
    gradient = np.empty(state.theta.shape[1], np.float32)
    for i in range(span[0], span[1]):
        for step in range(span[2], span[3]):
            gradient[:] = 0
            loss, left = 0.0, plan.batch
            while left > 0:
                rows = min(left, tiles * LANES)
                used = 2 * ((rows + 2 * LANES - 1) // (2 * LANES))
                valid[:rows], valid[rows:] = 1, 0
                draw(x, shared, law, i, state.words[i], n, used)
                loss += backpropagate(
                    plan, state.theta[i], (x, e, h, g, valid), law.importance[i], plan.slopes[step], used, gradient
                )
                left -= rows
            trace[i, step - span[2]] = loss
            if update:
                improve(plan, state.theta[i], state.mean[i], state.square[i], gradient, step)


@kernel
@no_type_check
def draw(x, shared, law, i, words, n, tiles):
    """Fresh samples into the tiles of x, advancing the generators."""
    s0, s1, s2, s3 = load(words, 0), load(words, 16), load(words, 32), load(words, 48)
    for c in range(len(shared) // (len(x) // n)):
        for t in range(tiles):
            r, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
            store(shared, (c * (len(x) // (n * LANES)) + t) * LANES, r)
    for j in range(n):
        low, span = law.low[i, j], law.span[i, j]
        scale, shift, minus = splat(law.scale[i, j]), splat(law.shift[i, j]), splat(np.uint32(-np.int64(low)))
        source = law.source[j]
        for t in range(tiles):
            if source < 0 or law.fresh[j]:
                r, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
            else:
                r = load(shared, (source * (len(x) // (n * LANES)) + t) * LANES)
            gate = r if source < 0 else load(shared, (source * (len(x) // (n * LANES)) + t) * LANES)
            value = fused(scale, real(r if law.fresh[j] else plus(r, minus)), shift)
            store(x, (t * n + j) * LANES, within(gate, low, span, value))
    store(words, 0, s0)
    store(words, 16, s1)
    store(words, 32, s2)
    store(words, 48, s3)


@kernel
@no_type_check
def advance(s0, s1, s2, s3):
    """One draw of 31 bits in every lane, and the generators' next state."""
    r = shifted(plus(s0, s3), np.uint32(0), np.uint32(1))
    t = shifted(s1, np.uint32(9), np.uint32(0))
    s2 = either(s2, s0)
    s3 = either(s3, s1)
    s1 = either(s1, s2)
    s0 = either(s0, s3)
    s2 = either(s2, t)
    s3 = either(shifted(s3, np.uint32(11), np.uint32(0)), shifted(s3, np.uint32(0), np.uint32(21)))
    return r, s0, s1, s2, s3


@kernel
@no_type_check
def backpropagate(plan, theta, scratch, importance, slope, tiles, gradient):
    """Loss of the samples in x, times their share of the batch; adds their part to the gradient."""
    x, e, h, g, valid = scratch
    n, m = plan.n, plan.m
    v = 0 if plan.tied else n * m
    product(h, x, theta, v, (m, n, 1, m), tiles)
    if plan.hidden != 1:
        for p in range(0, tiles * m * LANES, LANES):
            store(h, p, leak(load(h, p), load(h, p), splat(plan.hidden)))
    product(e, h, theta, 0, (n, m, m, 1), tiles)
    loss = judge(plan, x, e, valid, theta, importance, slope, tiles, gradient)
    product(g, e, theta, 0, (m, n, 1, m), tiles)
    if plan.hidden != 1:
        for p in range(0, tiles * m * LANES, LANES):
            store(g, p, leak(load(g, p), load(h, p), splat(plan.hidden)))
    outer(gradient, 0, e, h, (n, m), tiles)
    outer(gradient, v, x, g, (n, m), tiles)
    return loss


@kernel
@no_type_check
def judge(plan, x, z, valid, theta, importance, slope, tiles, gradient):
    """Turn z − b into ∂loss/∂z in place; the bias's gradient and the loss on the way."""
    n, first = plan.n, len(theta) - plan.n
    loss = np.float32(0)
    each, slope = np.float32(2 / plan.batch), splat(slope)
    for j in range(n):
        bias, weight = splat(theta[first + j]), splat(each * importance[j])
        squares, slopes = splat(np.float32(0)), splat(np.float32(0))
        for t in range(tiles):
            p = (t * n + j) * LANES
            before, target = add(load(z, p), bias), load(x, p)
            if plan.absolute:
                target = magnitude(target)
            error = multiply(subtract(leak(before, before, slope), target), load(valid, t * LANES))
            squares = fused(error, error, squares)
            down = leak(multiply(error, weight), before, slope)
            slopes = add(slopes, down)
            store(z, p, down)
        gradient[first + j] += total(slopes)
        loss += importance[j] * total(squares)
    return loss / plan.batch


@kernel
@no_type_check
def product(out, given, weights, base, shape, tiles):
    """out[o] = Σ_i weights[base + o · so + i · si] · given[i] in every lane; shape is (outs, ins, so, si).

    Eight independent sums at a time keep the multipliers busy.
    """
    outs, ins, so, si = shape
    zero = splat(np.float32(0))
    for t in range(0, tiles, 2):
        a, b = t * ins * LANES, (t + 1) * ins * LANES
        whole = outs - outs % 4
        for o in range(0, whole, 4):
            p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = zero
            w = base + o * so
            for i in range(ins):
                u, v = load(given, a + i * LANES), load(given, b + i * LANES)
                c = splat(weights[w])
                p0, q0 = fused(c, u, p0), fused(c, v, q0)
                c = splat(weights[w + so])
                p1, q1 = fused(c, u, p1), fused(c, v, q1)
                c = splat(weights[w + 2 * so])
                p2, q2 = fused(c, u, p2), fused(c, v, q2)
                c = splat(weights[w + 3 * so])
                p3, q3 = fused(c, u, p3), fused(c, v, q3)
                w += si
            c = (t * outs + o) * LANES
            d = c + outs * LANES
            store(out, c, p0)
            store(out, c + LANES, p1)
            store(out, c + 2 * LANES, p2)
            store(out, c + 3 * LANES, p3)
            store(out, d, q0)
            store(out, d + LANES, q1)
            store(out, d + 2 * LANES, q2)
            store(out, d + 3 * LANES, q3)
        for o in range(whole, outs):
            p0 = q0 = zero
            for i in range(ins):
                c = splat(weights[base + o * so + i * si])
                p0, q0 = fused(c, load(given, a + i * LANES), p0), fused(c, load(given, b + i * LANES), q0)
            store(out, (t * outs + o) * LANES, p0)
            store(out, ((t + 1) * outs + o) * LANES, q0)


@kernel
@no_type_check
def outer(gradient, base, a, b, shape, tiles):
    """gradient[base + j · m + k] += Σ over samples of a[j] · b[k]; shape is (n, m)."""
    n, m = shape
    sums, zero = np.empty(LANES, np.float32), splat(np.float32(0))
    for j in range(0, n - n % 4, 4):
        for k in range(0, m - m % 4, 4):
            c = (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
            for t in range(tiles):
                p, q = (t * n + j) * LANES, (t * m + k) * LANES
                a0, a1, a2, a3 = load(a, p), load(a, p + 16), load(a, p + 32), load(a, p + 48)
                b0, b1, b2, b3 = load(b, q), load(b, q + 16), load(b, q + 32), load(b, q + 48)
                c = (
                    fused(a0, b0, c[0]), fused(a0, b1, c[1]), fused(a0, b2, c[2]), fused(a0, b3, c[3]),
                    fused(a1, b0, c[4]), fused(a1, b1, c[5]), fused(a1, b2, c[6]), fused(a1, b3, c[7]),
                    fused(a2, b0, c[8]), fused(a2, b1, c[9]), fused(a2, b2, c[10]), fused(a2, b3, c[11]),
                    fused(a3, b0, c[12]), fused(a3, b1, c[13]), fused(a3, b2, c[14]), fused(a3, b3, c[15]),
                )  # fmt: skip
            store(sums, 0, totals(c))
            for s in range(LANES):
                gradient[base + (j + s // 4) * m + k + s % 4] += sums[s]
        for k in range(m - m % 4, m):
            c0 = c1 = c2 = c3 = zero
            for t in range(tiles):
                p, b0 = (t * n + j) * LANES, load(b, (t * m + k) * LANES)
                c0, c1 = fused(load(a, p), b0, c0), fused(load(a, p + 16), b0, c1)
                c2, c3 = fused(load(a, p + 32), b0, c2), fused(load(a, p + 48), b0, c3)
            p = base + j * m + k
            gradient[p] += total(c0)
            gradient[p + m] += total(c1)
            gradient[p + 2 * m] += total(c2)
            gradient[p + 3 * m] += total(c3)
    for j in range(n - n % 4, n):
        for k in range(m):
            c0 = c1 = zero
            for t in range(0, tiles, 2):
                c0 = fused(load(a, (t * n + j) * LANES), load(b, (t * m + k) * LANES), c0)
                c1 = fused(load(a, ((t + 1) * n + j) * LANES), load(b, ((t + 1) * m + k) * LANES), c1)
            gradient[base + j * m + k] += total(add(c0, c1))


@kernel
@no_type_check
def improve(plan, theta, mean, square, gradient, step):
    """One step of the optimizer, with torch's meaning of its settings."""
    rate, decay = plan.rates[step], np.float32(plan.decay)
    if plan.optimizer == ADAMW:
        theta *= np.float32(1 - rate * plan.decay)
    elif decay != 0:
        gradient += decay * theta
    if plan.optimizer == SGD:
        theta -= np.float32(rate) * gradient
        return
    size = np.float32(rate / (1 - BETA1 ** (step + 1)))
    root = np.float32(1 / math.sqrt(1 - BETA2 ** (step + 1)))
    b1, b2, c1, c2 = np.float32(BETA1), np.float32(BETA2), np.float32(1 - BETA1), np.float32(1 - BETA2)
    epsilon = np.float32(EPSILON)
    for p in range(len(theta)):
        slope = gradient[p]
        mean[p] = b1 * mean[p] + c1 * slope
        square[p] = b2 * square[p] + c2 * slope * slope
        theta[p] -= size * mean[p] / (np.float32(math.sqrt(square[p])) * root + epsilon)
