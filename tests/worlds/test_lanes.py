"""Vector operations against numpy."""

from typing import no_type_check

import numpy as np
import pytest

from digon import rng
from digon.worlds import lanes
from digon.worlds.lanes import (
    add,
    arrive,
    arrived,
    either,
    fused,
    kernel,
    leak,
    load,
    lowest,
    magnitude,
    multiply,
    occupied,
    plus,
    real,
    rest,
    shifted,
    splat,
    store,
    subtract,
    total,
    totals,
    within,
)  # fmt: skip


@kernel
@no_type_check
def arithmetic(out, a, b, c):
    x, y, z = load(a, 0), load(b, 0), load(c, 0)
    store(out, 0, add(x, y))
    store(out, 16, subtract(x, y))
    store(out, 32, multiply(x, y))
    store(out, 48, fused(x, y, z))
    store(out, 64, leak(x, y, splat(np.float32(0.25))))
    store(out, 80, magnitude(x))
    store(out, 96, splat(a[3]))
    return total(x)


@kernel
@no_type_check
def whole(out, a, b):
    x, y = load(a, 0), load(b, 0)
    store(out, 0, plus(x, y))
    store(out, 16, either(x, y))
    store(out, 32, shifted(x, np.uint32(9), np.uint32(0)))
    store(out, 48, shifted(x, np.uint32(0), np.uint32(21)))


@kernel
@no_type_check
def gate(out, words, low, high, value):
    store(out, 0, within(load(words, 0), low, high, load(value, 0)))
    store(out, 16, real(shifted(load(words, 0), np.uint32(0), np.uint32(1))))


@kernel
@no_type_check
def sums(out, a):
    v = (load(a, 0), load(a, 16), load(a, 32), load(a, 48), load(a, 64), load(a, 80), load(a, 96), load(a, 112),
         load(a, 128), load(a, 144), load(a, 160), load(a, 176), load(a, 192), load(a, 208), load(a, 224), load(a, 240))  # fmt: skip
    store(out, 0, totals(v))


@kernel
@no_type_check
def positions(a):
    found, bits = 0, occupied(load(a, 0))
    out = np.empty(16, np.int64)
    while bits:
        out[found] = lowest(bits)
        found, bits = found + 1, bits & (bits - 1)
    return out[:found]


@kernel
@no_type_check
def count(counter, times):
    for _ in range(times):
        arrive(counter)
    rest()
    return arrived(counter)


def floats(size, name="a"):
    return rng.numpy_stream(0, name).normal(size=size).astype(np.float32)


def test_arithmetic_of_sixteen_floats():
    a, b, c, out = floats(16), floats(16, "b"), floats(16, "c"), np.zeros(112, np.float32)
    s = arithmetic(out, a, b, c)
    expected = [a + b, a - b, a * b, a * b + c, np.where(b > 0, a, a / 4), np.abs(a), np.full(16, a[3])]
    np.testing.assert_allclose(out.reshape(7, 16), expected, rtol=1e-6, atol=1e-6)
    assert s == pytest.approx(a.sum(), abs=1e-5)


def test_words_wrap_and_stay_32_bits_wide():
    a, b = rng.numpy_stream(0, "words").integers(0, 2**32, (2, 16), np.uint32)
    out = np.zeros(64, np.uint32)
    whole(out, a, b)
    np.testing.assert_array_equal(out.reshape(4, 16), [a + b, a ^ b, a << np.uint32(9), a >> np.uint32(21)])


def test_gate_is_half_open():
    words = np.arange(16, dtype=np.uint32)
    out, value = np.zeros(32, np.float32), floats(16)
    gate(out, words, np.uint32(3), np.uint32(7), value)
    np.testing.assert_array_equal(out[:16], np.where((words >= 3) & (words < 7), value, 0))
    np.testing.assert_array_equal(out[16:], words // 2)


def test_sums_of_sixteen_vectors_at_once():
    a, out = floats(256), np.zeros(16, np.float32)
    sums(out, a)
    np.testing.assert_allclose(out, a.reshape(16, 16).sum(1), rtol=1e-5, atol=1e-5)


def test_positions_of_numbers_that_are_not_zero():
    a = floats(16)
    a[[0, 3, 4, 15]] = 0
    np.testing.assert_array_equal(positions(a), np.flatnonzero(a))
    a[:] = 0
    assert len(positions(a)) == 0


def test_counter_counts():
    counter = np.zeros(1, np.int64)
    assert count(counter, 5) == 5
    assert count(counter, 2) == 7


def test_kernels_compile_where_nothing_can_be_cached(monkeypatch):
    """numba raises at once if neither the package's folder nor the user's cache can be written."""
    real_njit = lanes.njit

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real_njit(**options)

    monkeypatch.setattr(lanes, "njit", njit)

    @kernel
    def double(x):
        return 2 * x

    assert double(3) == 6
