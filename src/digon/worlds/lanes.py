"""Sixteen numbers at a time: vector types for numba kernels.

numba's own vectorizer halves the width of the registers on many processors, checks every pair of arrays for overlap,
and widens sums of 32-bit integers to 64 bits. These few operations say what is meant: one value of `floats` or `words`
is sixteen float32 or uint32 numbers, in one AVX-512 register, two AVX2 ones or four NEON ones, as the machine has them.
"""

from collections.abc import Callable
from typing import Any, no_type_check

from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic, models, register_model

WIDTH = 16
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_WORDS = ir.VectorType(ir.IntType(32), WIDTH)


@no_type_check
class _Lanes(types.Type):
    pass


@no_type_check
class _FloatLanes(_Lanes):
    def __init__(self):
        super().__init__(name="digon.floats")


@no_type_check
class _WordLanes(_Lanes):
    def __init__(self):
        super().__init__(name="digon.words")


floats, words = _FloatLanes(), _WordLanes()


@register_model(_FloatLanes)
@no_type_check
class _FloatModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS)


@register_model(_WordLanes)
@no_type_check
class _WordModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _WORDS)


@no_type_check
def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, without the interpreter's lock; keep the result on disk where some folder can be written."""
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


@no_type_check
def _address(context, builder, kind, array, index, vector):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@no_type_check
def _splat(builder, scalar, vector):
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


@intrinsic
@no_type_check
def load(typing, array, index):
    """Sixteen numbers of an array from an index on."""
    result = floats if array.dtype == types.float32 else words

    def code(context, builder, signature, values):
        vector = _FLOATS if signature.return_type == floats else _WORDS
        return builder.load(_address(context, builder, signature.args[0], values[0], values[1], vector), align=4)

    return result(array, types.intp), code


@intrinsic
@no_type_check
def store(typing, array, index, value):
    """Put sixteen numbers into an array from an index on."""

    def code(context, builder, signature, values):
        vector = _FLOATS if signature.args[2] == floats else _WORDS
        address = _address(context, builder, signature.args[0], values[0], values[1], vector)
        builder.store(values[2], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), code


@intrinsic
@no_type_check
def splat(typing, scalar):
    """Sixteen copies of a float32 or uint32."""
    whole = isinstance(scalar, types.Integer)

    def code(context, builder, signature, values):
        return _splat(builder, values[0], _WORDS if whole else _FLOATS)

    return (words(types.uint32) if whole else floats(types.float32)), code


@no_type_check
def _binary(name, kind):
    @intrinsic
    def operation(typing, a, b):
        def code(context, builder, signature, values):
            return getattr(builder, name)(*values)

        return kind(kind, kind), code

    return operation


add, subtract, multiply = _binary("fadd", floats), _binary("fsub", floats), _binary("fmul", floats)
plus, either = _binary("add", words), _binary("xor", words)
"""Sum modulo 2³² and exclusive or of words."""


@intrinsic
@no_type_check
def fused(typing, a, b, c):
    """a · b + c, in one rounding where the machine can."""

    def code(context, builder, signature, values):
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        name = f"llvm.fmuladd.v{WIDTH}f32"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(function, values)

    return floats(floats, floats, floats), code


@intrinsic
@no_type_check
def leak(typing, value, gate, slope):
    """`value` where gate > 0, elsewhere slope · value: a leaky ReLU and, with another gate, its derivative's product."""

    def code(context, builder, signature, values):
        value, gate, slope = values
        positive = builder.fcmp_ordered(">", gate, ir.Constant(_FLOATS, [0.0] * WIDTH))
        return builder.select(positive, value, builder.fmul(value, slope))

    return floats(floats, floats, floats), code


@intrinsic
@no_type_check
def magnitude(typing, value):
    """Absolute values."""

    def code(context, builder, signature, values):
        bits = builder.bitcast(values[0], _WORDS)
        return builder.bitcast(builder.and_(bits, ir.Constant(_WORDS, [0x7FFFFFFF] * WIDTH)), _FLOATS)

    return floats(floats), code


@intrinsic
@no_type_check
def shifted(typing, value, left, right):
    """Words shifted to the left and then to the right; a rotation is `either` of two of them."""

    def code(context, builder, signature, values):
        value, left, right = values
        return builder.lshr(builder.shl(value, _splat(builder, left, _WORDS)), _splat(builder, right, _WORDS))

    return words(words, types.uint32, types.uint32), code


@intrinsic
@no_type_check
def within(typing, word, low, high, value):
    """`value` where low ≤ word < high (uint32 scalars), else 0."""

    def code(context, builder, signature, values):
        word, low, high, value = values
        span = builder.sub(_splat(builder, high, _WORDS), _splat(builder, low, _WORDS))
        inside = builder.icmp_unsigned("<", builder.sub(word, _splat(builder, low, _WORDS)), span)
        return builder.select(inside, value, ir.Constant(_FLOATS, [0.0] * WIDTH))

    return floats(words, types.uint32, types.uint32, floats), code


@intrinsic
@no_type_check
def real(typing, word):
    """Words below 2³¹ as floats."""

    def code(context, builder, signature, values):
        return builder.sitofp(values[0], _FLOATS)

    return floats(words), code


@intrinsic
@no_type_check
def occupied(typing, value):
    """Which lanes are not 0, as the bits of an integer."""

    def code(context, builder, signature, values):
        filled = builder.fcmp_unordered("!=", values[0], ir.Constant(_FLOATS, [0.0] * WIDTH))
        return builder.zext(builder.bitcast(filled, ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(floats), code


@intrinsic
@no_type_check
def lowest(typing, bits):
    """Number of the lowest bit that is set; some must be."""

    def code(context, builder, signature, values):
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), code


@intrinsic
@no_type_check
def arrive(typing, counter):
    """Add 1 to the first number of an int64 array that threads share."""

    def code(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "acq_rel")
        return context.get_dummy_value()

    return types.void(counter), code


@intrinsic
@no_type_check
def arrived(typing, counter):
    """The first number of an int64 array that threads share."""

    def code(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.load_atomic(data, "acquire", align=8)

    return types.int64(counter), code


@intrinsic
@no_type_check
def rest(typing):
    """Let another thread have the core, where the system has a call for it."""

    def code(context, builder, signature, values):
        if binding.address_of_symbol("sched_yield"):
            kind = ir.FunctionType(ir.IntType(32), [])
            found = builder.module.globals.get("sched_yield") or ir.Function(builder.module, kind, "sched_yield")
            builder.call(found, [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
@no_type_check
def total(typing, value):
    """Sum of the sixteen."""

    def code(context, builder, signature, values):
        vector, half = values[0], WIDTH
        while half > 1:
            half //= 2
            low, high = (_shuffle(builder, vector, vector, list(range(s, s + half))) for s in (0, half))
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return types.float32(floats), code


@intrinsic
@no_type_check
def totals(typing, vectors):
    """Sums of sixteen vectors (a tuple), as one vector: a tree of half-width sums, a third of the work of one by one."""

    def code(context, builder, signature, values):
        level, period = [builder.extract_value(values[0], i) for i in range(WIDTH)], 1
        # Lane l of a vector holds a partial sum of its input number l modulo `period`; two vectors make one of twice that.
        while len(level) > 1:
            starts = [g + o for g in range(0, WIDTH, 2 * period) for o in range(period)]
            low = [
                i for g in range(0, len(starts), period) for v in (0, WIDTH) for i in _shift(starts[g : g + period], v)
            ]
            level = [
                builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, _shift(low, period)))
                for a, b in zip(level[::2], level[1::2], strict=True)
            ]
            period *= 2
        return level[0]

    return floats(vectors), code


@no_type_check
def _shift(numbers, by):
    return [n + by for n in numbers]


@no_type_check
def _shuffle(builder, a, b, numbers):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers))
