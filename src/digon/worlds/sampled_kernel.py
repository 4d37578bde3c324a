"""Train small toy networks on fresh samples at the speed of the arithmetic: all of a network's state stays in cache.

    h = act(x V),  y = act(h Wᵀ + b),  loss = Σ_j I_j (y_j − t_j)²,  t = x or |x|,  act(z) = z or slope · z below 0

A batch is cut into slices with generators of their own, which threads may share, and a slice into tiles of sixteen
samples, each number of a sample in its own lane, so that every product of the forward and the backward pass is a sum
of (one weight) × (sixteen lanes). For one block of tiles after another:

    1. draw     x, by a generator in every lane (`worlds/sampled_draws`)
    2. forward  h, then z = h Wᵀ
    3. judge    loss, e = ∂loss/∂z, gradient of the bias
    4. back     g = e W · act'(h);  ∂W += eᵀ h,  ∂V += xᵀ g

then one step of Adam, AdamW or SGD with torch's meaning of every setting. Where few features are active, samples without
any cost nothing, and products with x, and with e if most outputs are right, go over the numbers that are not 0
(`worlds/tiles`). The readable reference is the torch path of `worlds/fit`; tests compare gradients, steps, random
numbers and final losses.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np

from .lanes import (
    WIDTH,
    add,
    arrive,
    arrived,
    fused,
    kernel,
    leak,
    load,
    magnitude,
    multiply,
    rest,
    splat,
    store,
    subtract,
    total,
)  # fmt: skip
from .sampled_draws import draw, leap
from .tiles import collect, note, outer, product, scatter, to_rows, to_tiles

LANES = WIDTH
SGD, ADAM, ADAMW = 0, 1, 2
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
PATIENCE = 500
"""Looks at a counter before a waiting thread lets go of its core."""
CROWD = 0.03
"""Share of wrong outputs from which on products with the errors are dense."""


class Plan(NamedTuple):
    """What is the same for every instance."""

    n: int
    m: int
    batch: int
    slices: int
    """Parts of a batch with generators and gradients of their own."""
    rows: int
    """Samples of a slice; a multiple of 32."""
    tiles: int
    """Tiles of sixteen samples that are worked on together; even."""
    sparse: bool
    """Whether products go over active features only."""
    tied: bool
    absolute: bool
    """Whether the target is |x|."""
    hidden: np.float32
    """Slope of the hidden activation below 0: 1 linear, 0 ReLU."""
    trained: int
    """Numbers of theta that learn: without the biases if those are fixed."""
    slopes: np.ndarray
    """Slope of the output below 0 at every step, float32."""
    rates: np.ndarray
    """Learning rate at every step, float64."""
    optimizer: int
    decay: float


class Law(NamedTuple):
    """Sampling tables per instance and feature: active where low ≤ draw < low + span, value = scale · (draw − low) + shift."""

    low: np.ndarray
    span: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    importance: np.ndarray
    shared: int
    """Draws that decide about several features."""
    source: np.ndarray
    """Which shared draw decides about a feature, −1 its own; one row for all instances."""
    fresh: np.ndarray
    """Whether the value needs a draw of its own."""


class State(NamedTuple):
    """What training changes, per instance."""

    theta: np.ndarray
    """W, then V unless tied, then b, as one row; sixteen numbers of padding."""
    mean: np.ndarray
    square: np.ndarray
    words: np.ndarray
    """[instances, slices, 64] four words of every lane's generator."""


class Team(NamedTuple):
    """Threads that share the slices of one instance, and what they share."""

    member: int
    members: int
    parts: np.ndarray
    """[slices, theta] gradient of every slice."""
    losses: np.ndarray
    """[slices] loss of every slice."""
    counter: np.ndarray
    """[1] arrivals of members at the ends of phases."""


class Entries(NamedTuple):
    """Numbers that are not 0, feature by feature."""

    first: np.ndarray
    """[n + 1] where each feature's begin."""
    row: np.ndarray
    value: np.ndarray


class Scratch(NamedTuple):
    """Working space of one thread; a tile of k numbers per sample is k · 16 floats."""

    x: np.ndarray
    e: np.ndarray
    h: np.ndarray
    g: np.ndarray
    valid: np.ndarray
    """Which samples count."""
    place: np.ndarray
    """Where each sample went."""
    shared: np.ndarray
    active: Entries
    wrong: Entries
    h_rows: np.ndarray
    g_rows: np.ndarray


@kernel
@no_type_check
def train(plan, law, state, team, span, update, trace):
    """Run instances span[0]..span[1] through steps span[2]..span[3]; `trace` [instances, steps] gets the batch losses.

    All members of a team must call this with the same arguments. Without `update` only the generators change.
    """
    scratch = prepare(plan, law)
    met = 0
    for i in range(span[0], span[1]):
        for step in range(span[2], span[3]):
            for s in range(team.member, plan.slices, team.members):
                team.losses[s] = descend(plan, law, state, scratch, (i, s, step), team.parts[s])
            met = meet(team, met)
            if update:
                improve(plan, state.theta[i], state.mean[i], state.square[i], team, step)
            if team.member == 0:
                trace[i - span[0], step - span[2]] = 0
                for s in range(plan.slices):
                    trace[i - span[0], step - span[2]] += team.losses[s]
            met = meet(team, met)


@kernel
@no_type_check
def meet(team, met):
    """Wait until all members are here; returns how often they have met."""
    if team.members > 1:
        arrive(team.counter)
        looks = 0
        while arrived(team.counter) < team.members * (met + 1):
            looks += 1
            if looks > PATIENCE:
                rest()
    return met + 1


@kernel
@no_type_check
def prepare(plan, law):
    """Empty working space."""
    n, m, samples = plan.n, plan.m, plan.tiles * LANES
    entries, pitch = samples * n if plan.sparse else 0, (m + LANES - 1) // LANES * LANES
    rows = samples * pitch if plan.sparse else 0
    active = Entries(np.zeros(n + 1, np.int64), np.empty(entries, np.int32), np.empty(entries, np.float32))
    wrong = Entries(np.empty(n + 1, np.int64), np.empty(entries, np.int32), np.empty(entries, np.float32))
    return Scratch(
        np.zeros(samples * n, np.float32), np.empty(samples * n, np.float32),
        np.empty(samples * m, np.float32), np.empty(samples * m, np.float32),
        np.ones(samples, np.float32), np.empty(samples, np.int32), np.empty(law.shared * samples, np.uint32),
        active, wrong, np.zeros(rows, np.float32), np.zeros(rows, np.float32),
    )  # fmt: skip


@kernel
@no_type_check
def descend(plan, law, state, scratch, where, gradient):
    """Loss and gradient of one slice of fresh samples, as shares of the batch's."""
    i, s, step = where
    left, loss = min(plan.rows, plan.batch - s * plan.rows), 0.0
    for p in range(len(gradient)):
        gradient[p] = 0
    while left > 0:
        rows = min(left, plan.tiles * LANES)
        left -= rows
        slope = np.float32(plan.slopes[step])
        if plan.sparse:
            busy = leap(plan, law, scratch, i, state.words[i, s], rows)
            loss += idle(plan, state.theta[i], law.importance[i], slope, rows - busy, gradient)
            rows = busy
        tiles = 2 * ((rows + 2 * LANES - 1) // (2 * LANES))
        for r in range(tiles * LANES):
            scratch.valid[r] = r < rows
        if not plan.sparse:
            draw(plan, law, scratch, i, state.words[i, s], tiles)
        loss += backpropagate(plan, state.theta[i], scratch, law.importance[i], slope, tiles, gradient)
    return loss


@kernel
@no_type_check
def backpropagate(plan, theta, scratch, importance, slope, tiles, gradient):
    """Loss of the samples in x, as a share of the batch's; adds their part to the gradient."""
    x, e, h, g = scratch.x, scratch.e, scratch.h, scratch.g
    n, m, v = plan.n, plan.m, 0 if plan.tied else plan.n * plan.m
    if plan.sparse:
        scatter(scratch.h_rows, scratch.active, theta, v, (n, m), tiles)
        bend(scratch.h_rows, scratch.h_rows, plan.hidden, tiles * LANES * (len(scratch.h_rows) // len(scratch.valid)))
        to_tiles(h, scratch.h_rows, m, tiles)
    else:
        product(h, x, theta, v, (m, n, 1, m), tiles)
        bend(h, h, plan.hidden, tiles * m * LANES)
    product(e, h, theta, 0, (n, m, m, 1), tiles)
    loss, few = judge(plan, scratch, theta, importance, slope, tiles, gradient)
    if few:
        scatter(scratch.g_rows, scratch.wrong, theta, 0, (n, m), tiles)
        bend(scratch.g_rows, scratch.h_rows, plan.hidden, tiles * LANES * (len(scratch.h_rows) // len(scratch.valid)))
        collect(gradient, 0, scratch.wrong, scratch.h_rows, (n, m))
    else:
        product(g, e, theta, 0, (m, n, 1, m), tiles)
        bend(g, h, plan.hidden, tiles * m * LANES)
        outer(gradient, 0, e, h, (n, m), tiles)
    if plan.sparse:
        if not few:
            to_rows(scratch.g_rows, g, m, tiles)
        collect(gradient, v, scratch.active, scratch.g_rows, (n, m))
    else:
        outer(gradient, v, x, g, (n, m), tiles)
    return loss


@kernel
@no_type_check
def idle(plan, theta, importance, slope, count, gradient):
    """The same for a number of samples in which nothing is active: only biases matter."""
    loss, first, each = np.float32(0), len(theta) - LANES - plan.n, np.float32(2 * count / plan.batch)
    for j in range(plan.n):
        steep = np.float32(1) if theta[first + j] > 0 else slope
        error = steep * theta[first + j]
        loss += importance[j] * error * error
        gradient[first + j] += each * importance[j] * error * steep
    return loss * count / plan.batch


@kernel
@no_type_check
def bend(values, gate, slope, count):
    """Multiply values by the slope where the gate is not above 0."""
    if slope != 1:
        for p in range(0, count, LANES):
            store(values, p, leak(load(values, p), load(gate, p), splat(slope)))


@kernel
@no_type_check
def judge(plan, scratch, theta, importance, slope, tiles, gradient):
    """Turn z − b into ∂loss/∂z in place, noting what is not 0; the bias's gradient on the way.

    Returns the loss, and whether few enough outputs are wrong for all of them to be in `scratch.wrong`.
    """
    x, z, valid, wrong = scratch.x, scratch.e, scratch.valid, scratch.wrong
    n, first = plan.n, len(theta) - LANES - plan.n
    loss, count, most = np.float32(0), 0, int(CROWD * n * tiles * LANES) if plan.sparse else -1
    each, slope = np.float32(2 / plan.batch), splat(slope)
    for j in range(n):
        bias, weight = splat(theta[first + j]), splat(each * importance[j])
        squares, slopes = splat(np.float32(0)), splat(np.float32(0))
        wrong.first[j] = count
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
            if count <= most:
                count = note(wrong, count, down, z, p, t)
        gradient[first + j] += total(slopes)
        loss += importance[j] * total(squares)
    wrong.first[n] = count
    return loss / plan.batch, count <= most


@kernel
@no_type_check
def improve(plan, theta, mean, square, team, step):
    """One step of the optimizer with torch's meaning of its settings, on this member's share of the numbers."""
    low = plan.trained * team.member // team.members
    high = plan.trained * (team.member + 1) // team.members
    gradient, rate = team.parts[0], plan.rates[step]
    for s in range(1, plan.slices):
        for p in range(low, high):
            gradient[p] += team.parts[s, p]
    keep = np.float32(1 - rate * plan.decay) if plan.optimizer == ADAMW else np.float32(1)
    pull = np.float32(0) if plan.optimizer == ADAMW else np.float32(plan.decay)
    if plan.optimizer == SGD:
        for p in range(low, high):
            theta[p] -= np.float32(rate) * (gradient[p] + pull * theta[p])
        return
    size = np.float32(rate / (1 - BETA1 ** (step + 1)))
    root = np.float32(1 / math.sqrt(1 - BETA2 ** (step + 1)))
    b1, b2, c1, c2 = np.float32(BETA1), np.float32(BETA2), np.float32(1 - BETA1), np.float32(1 - BETA2)
    epsilon = np.float32(EPSILON)
    for p in range(low, high):
        slope = gradient[p] + pull * theta[p]
        mean[p] = b1 * mean[p] + c1 * slope
        square[p] = b2 * square[p] + c2 * slope * slope
        change = size * mean[p] / (np.float32(math.sqrt(square[p])) * root + epsilon)
        theta[p] = keep * theta[p] - change
