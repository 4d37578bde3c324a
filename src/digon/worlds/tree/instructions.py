"""Vector instructions of the tree sampler that `worlds/lanes` does not have.

This module imports numba; import it lazily.
"""

from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..lanes import _FLOATS, _WORDS, WIDTH, _splat, floats, words

FLOOR = -126 * 2.0**23
"""Bounds of logarithms are no smaller, in base 2 and times 2²³."""


@intrinsic
@no_type_check
def power(typing, exponent):
    """At least 2 to the power of exponent / 2²³, and at most 6 % more.

    A float's bits, as an integer, are 2²³ times its exponent plus its fraction: its logarithm with lines between powers of two.
    """

    def code(context, builder, signature, values):
        least = ir.Constant(_FLOATS, [FLOOR] * WIDTH)
        exponent = builder.select(builder.fcmp_ordered(">", values[0], least), values[0], least)
        bits = builder.add(builder.fptosi(exponent, _WORDS), ir.Constant(_WORDS, [127 << 23] * WIDTH))
        return builder.bitcast(bits, _FLOATS)

    return floats(floats), code


@intrinsic
@no_type_check
def negative(typing, value):
    """Lanes below 0, as bits."""

    def code(context, builder, signature, values):
        below = builder.fcmp_ordered("<", values[0], ir.Constant(_FLOATS, [0.0] * WIDTH))
        return builder.zext(builder.bitcast(below, ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(floats), code


@no_type_check
def _half(name, operand):
    @intrinsic
    def operation(typing, word):
        def code(context, builder, signature, values):
            return builder.bitcast(getattr(builder, name)(values[0], ir.Constant(_WORDS, [operand] * WIDTH)), _FLOATS)

        return floats(words), code

    return operation


lower, upper = _half("shl", 16), _half("and_", 0xFFFF0000)
"""The bfloat16 numbers in the lower and in the upper halves of words."""


@intrinsic
@no_type_check
def expect(typing, array, index):
    """Tell the processor that a place of a flat array will be read soon."""

    def code(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        byte, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        place = builder.bitcast(builder.gep(data, [values[1]]), byte)
        builder.call(function, [place, *(ir.Constant(whole, v) for v in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), code


@intrinsic
@no_type_check
def copies(typing, array, index):
    """Sixteen copies of one number of a flat array; the index is not checked."""

    def code(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return _splat(builder, builder.load(builder.gep(data, [values[1]])), _FLOATS)

    return floats(array, types.intp), code
