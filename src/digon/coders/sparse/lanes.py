"""Vector operations of the sparse kernels that `worlds/lanes` does not have.

This module imports numba; import it lazily.
"""

from typing import no_type_check

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from ...worlds.lanes import _FLOATS, _WORDS, WIDTH, _splat, floats, load
from ...worlds.tree.instructions import lower, upper


@no_type_check
def inlined(function):
    """Compile as a part of the callers."""
    return njit(forceinline=True, error_model="numpy", boundscheck=False)(function)


@no_type_check
def pair(z, at):
    """Columns at … at + 15 and at + 16 … at + 31 of a flat matrix of float32, or of paired bfloat16 (see `paired`)."""
    raise NotImplementedError("this runs compiled only")


@overload(pair, inline="always")
@no_type_check
def _pair(z, at):
    if z.dtype == types.float32:

        @no_type_check
        def code(z, at):
            return load(z, at), load(z, at + 16)
    else:

        @no_type_check
        def code(z, at):
            word = load(z, at // 2)
            return lower(word), upper(word)

    return code


@no_type_check
def _call(builder, name, values, result=_FLOATS):
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), values)


@intrinsic
@no_type_check
def larger(typing, a, b):
    """The larger of two lane by lane; the first where the second is not a number."""

    def code(context, builder, signature, values):
        a, b = values
        return builder.select(builder.fcmp_ordered(">", b, a), b, a)

    return floats(floats, floats), code


@intrinsic
@no_type_check
def reaching(typing, value, level):
    """Lanes that are not below the level (not a number is not below anything), as the bits of an integer."""

    def code(context, builder, signature, values):
        within = builder.fcmp_unordered(">=", *values)
        return builder.zext(builder.bitcast(within, ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(floats, floats), code


@intrinsic
@no_type_check
def one(typing, scalar):
    """Sixteen copies of a float32."""

    def code(context, builder, signature, values):
        return _splat(builder, values[0], _FLOATS)

    return floats(types.float32), code


@intrinsic
@no_type_check
def root(typing, value):
    """Square roots."""

    def code(context, builder, signature, values):
        return _call(builder, f"llvm.sqrt.v{WIDTH}f32", values)

    return floats(floats), code


@intrinsic
@no_type_check
def quotient(typing, a, b):
    """a / b."""

    def code(context, builder, signature, values):
        return builder.fdiv(*values)

    return floats(floats, floats), code


@intrinsic
@no_type_check
def rank(typing, value):
    """An int32 that is ordered as float32 numbers are; what is not a number has a place, too."""

    def code(context, builder, signature, values):
        word = ir.IntType(32)
        bits = builder.bitcast(values[0], word)
        sign = builder.ashr(bits, ir.Constant(word, 31))
        return builder.xor(bits, builder.and_(sign, ir.Constant(word, 0x7FFFFFFF)))

    return types.int32(types.float32), code


@intrinsic
@no_type_check
def unranked(typing, key):
    """The float32 number of a rank."""

    def code(context, builder, signature, values):
        word = ir.IntType(32)
        sign = builder.ashr(values[0], ir.Constant(word, 31))
        bits = builder.xor(values[0], builder.and_(sign, ir.Constant(word, 0x7FFFFFFF)))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), code


@intrinsic
@no_type_check
def rounded(typing, value):
    """The nearest bfloat16 numbers, as floats; of two equally near ones the even one."""

    def code(context, builder, signature, values):
        constant = lambda number: ir.Constant(_WORDS, [number] * WIDTH)  # noqa: E731
        bits = builder.bitcast(values[0], _WORDS)
        odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
        near = builder.and_(builder.add(bits, builder.add(odd, constant(0x7FFF))), constant(0xFFFF0000))
        return builder.bitcast(near, _FLOATS)

    return floats(floats), code


@intrinsic
@no_type_check
def store_half(typing, array, index, value):
    """Put sixteen floats that are bfloat16 numbers into a flat uint16 array from an index on."""

    def code(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        halves = ir.VectorType(ir.IntType(16), WIDTH)
        bits = builder.lshr(builder.bitcast(values[2], _WORDS), ir.Constant(_WORDS, [16] * WIDTH))
        address = builder.bitcast(builder.gep(data, [values[1]]), halves.as_pointer())
        builder.store(builder.trunc(bits, halves), address, align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), code
