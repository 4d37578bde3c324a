"""Eight complex numbers at a time: a vector type for numba kernels in float64.

numba's own vectorizer gives up on loops over many arrays. A value of `eight` is eight complex numbers: two AVX-512
registers, four AVX2 ones or eight NEON ones, as the machine has them. Kernels write `x * y + z` as for one number.

This module imports numba; import it lazily.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any, no_type_check

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 8
DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(DOUBLE, WIDTH)
_PAIR = ir.LiteralStructType([_VECTOR, _VECTOR])
_INDEX = ir.IntType(32)


@no_type_check
class _Eight(types.Type):
    def __init__(self):
        super().__init__(name="digon.eight")


eight = _Eight()


@register_model(_Eight)
@no_type_check
class _EightModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _PAIR)


_OPTIONS = {"nogil": True, "error_model": "numpy"}
"""No fast math: the compiler may not change a result, so that every copy of a function gives the same bits."""


def operation(function: Any) -> Any:
    """An instruction of our own; its first argument is numba's, callers leave it out."""
    return intrinsic(function)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, without the interpreter's lock; keep the result on disk where some folder can be written.

    Run-time type checkers that wrapped the function are taken off first.
    """
    plain = inspect.unwrap(function)
    try:
        return njit(cache=True, **_OPTIONS)(plain)
    except RuntimeError:
        return njit(**_OPTIONS)(plain)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for small functions: they become part of the machine code of their callers."""
    return njit(forceinline=True, **_OPTIONS)(inspect.unwrap(function))


def pasted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for functions with one caller: they become part of its source, which compiles faster."""
    return njit(inline="always", **_OPTIONS)(inspect.unwrap(function))


@no_type_check
def _pair(builder: Any, re: Any, im: Any) -> Any:
    value = builder.insert_value(ir.Constant(_PAIR, ir.Undefined), re, 0)
    return builder.insert_value(value, im, 1)


@no_type_check
def _parts(builder, value):
    return builder.extract_value(value, 0), builder.extract_value(value, 1)


@no_type_check
def _splat(builder, scalar):
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(
        one, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.VectorType(_INDEX, WIDTH), [0] * WIDTH)
    )


@no_type_check
def _address(context, builder, kind, array, index, half):
    data = context.make_array(kind)(context, builder, array).data
    start = builder.mul(index, ir.Constant(index.type, 2 * WIDTH))
    start = builder.add(start, ir.Constant(index.type, WIDTH * half))
    return builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer())


@no_type_check
def _sum(builder, vector):
    half = WIDTH
    while half > 1:
        half //= 2
        low, high = (
            builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_INDEX, half), list(range(s, s + half))))
            for s in (0, half)
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(_INDEX, 0))


@no_type_check
def _call(builder, name, *vectors):
    name = f"llvm.{name}.v{WIDTH}f64"
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(vectors))
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, vectors)


@no_type_check
def _product(builder, a, b):
    (ar, ai), (br, bi) = _parts(builder, a), _parts(builder, b)
    re = _call(builder, "fmuladd", builder.fneg(ai), bi, builder.fmul(ar, br))
    return re, _call(builder, "fmuladd", ai, br, builder.fmul(ar, bi))


@operation
@no_type_check
def load(typing, array, index):
    """Number `index` of an array of eights, stored as 16 float64 each."""

    def code(context, builder, signature, values):
        halves = (builder.load(_address(context, builder, array, values[0], values[1], h), align=8) for h in (0, 1))
        return _pair(builder, *halves)

    return eight(array, types.intp), code


@operation
@no_type_check
def store(typing, array, index, value):
    """Put an eight into an array of eights."""

    def code(context, builder, signature, values):
        for h, part in enumerate(_parts(builder, values[2])):
            builder.store(part, _address(context, builder, array, values[0], values[1], h), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, eight), code


@operation
@no_type_check
def splat(typing, re, im):
    """Eight copies of re + i·im."""

    def code(context, builder, signature, values):
        return _pair(builder, _splat(builder, values[0]), _splat(builder, values[1]))

    return eight(types.float64, types.float64), code


@operation
@no_type_check
def ladder(typing, re, im, step):
    """re + i (im + r · step), r = 0 … 7."""

    def code(context, builder, signature, values):
        re, im, step = (_splat(builder, v) for v in values)
        steps = builder.fmul(step, ir.Constant(_VECTOR, [float(r) for r in range(WIDTH)]))
        return _pair(builder, re, builder.fadd(im, steps))

    return eight(types.float64, types.float64, types.float64), code


@operation
@no_type_check
def inverse(typing, value):
    """1 / z."""

    def code(context, builder, signature, values):
        re, im = _parts(builder, values[0])
        size = builder.fadd(builder.fmul(re, re), builder.fmul(im, im))
        one = builder.fdiv(ir.Constant(_VECTOR, [1.0] * WIDTH), size)
        return _pair(builder, builder.fmul(re, one), builder.fneg(builder.fmul(im, one)))

    return eight(eight), code


@operation
@no_type_check
def conjugate(typing, value):
    """Complex conjugates."""

    def code(context, builder, signature, values):
        re, im = _parts(builder, values[0])
        return _pair(builder, re, builder.fneg(im))

    return eight(eight), code


@operation
@no_type_check
def unwound(typing, value):
    """The same, with the imaginary part modulo 2π."""
    turn = 6.283185307179586

    def code(context, builder, signature, values):
        re, im = _parts(builder, values[0])
        turns = _call(builder, "rint", builder.fmul(im, ir.Constant(_VECTOR, [1 / turn] * WIDTH)))
        return _pair(builder, re, builder.fsub(im, builder.fmul(turns, ir.Constant(_VECTOR, [turn] * WIDTH))))

    return eight(eight), code


@operation
@no_type_check
def within(typing, value, limit, inside, outside):
    """`inside` where |value| < limit, else `outside`."""

    def code(context, builder, signature, values):
        re, im = _parts(builder, values[0])
        size = builder.fadd(builder.fmul(re, re), builder.fmul(im, im))
        low = builder.fcmp_ordered("<", size, _splat(builder, builder.fmul(values[1], values[1])))
        pairs = zip(_parts(builder, values[2]), _parts(builder, values[3]), strict=True)
        return _pair(builder, *(builder.select(low, a, b) for a, b in pairs))

    return eight(eight, types.float64, eight, eight), code


@operation
@no_type_check
def real_dot(typing, a, b):
    """Sum of the real parts of a · b."""

    def code(context, builder, signature, values):
        return _sum(builder, _product(builder, *values)[0])

    return types.float64(eight, eight), code


@operation
@no_type_check
def _times(typing, a, b):
    def code(context, builder, signature, values):
        return _pair(builder, *_product(builder, *values))

    return eight(eight, eight), code


@operation
@no_type_check
def _scaled(typing, a, b):
    def code(context, builder, signature, values):
        factor = _splat(builder, values[1])
        return _pair(builder, *(builder.fmul(part, factor) for part in _parts(builder, values[0])))

    return eight(eight, types.float64), code


@operation
@no_type_check
def _raised(typing, a, b):
    def code(context, builder, signature, values):
        re, im = _parts(builder, values[0])
        return _pair(builder, builder.fadd(re, _splat(builder, values[1])), im)

    return eight(eight, types.float64), code


@no_type_check
def _both(name):
    @operation
    def both(typing, a, b):
        def code(context, builder, signature, values):
            pairs = zip(_parts(builder, values[0]), _parts(builder, values[1]), strict=True)
            return _pair(builder, *(getattr(builder, name)(x, y) for x, y in pairs))

        return eight(eight, eight), code

    return both


_plus, _minus = _both("fadd"), _both("fsub")


@overload(operator.mul)
@no_type_check
def _mul(a, b):
    if a is eight and b is eight:
        return lambda a, b: _times(a, b)
    if a is eight and isinstance(b, types.Float):
        return lambda a, b: _scaled(a, b)


@overload(operator.add)
@no_type_check
def _add(a, b):
    if a is eight and b is eight:
        return lambda a, b: _plus(a, b)
    if a is eight and isinstance(b, types.Float):
        return lambda a, b: _raised(a, b)


@overload(operator.sub)
@no_type_check
def _sub(a, b):
    if a is eight and b is eight:
        return lambda a, b: _minus(a, b)
    if a is eight and isinstance(b, types.Float):
        return lambda a, b: _raised(a, -b)


@inlined
def exponential(z):
    """eᶻ for real parts in about ±4: a Taylor series of z/64, squared six times."""
    u = unwound(z) * (1 / 64)
    e = u * (1 / 8) + 1.0
    e = u * e * (1 / 7) + 1.0
    e = u * e * (1 / 6) + 1.0
    e = u * e * (1 / 5) + 1.0
    e = u * e * (1 / 4) + 1.0
    e = u * e * (1 / 3) + 1.0
    e = u * e * (1 / 2) + 1.0
    e = u * e + 1.0
    for _ in range(6):
        e = e * e
    return e
