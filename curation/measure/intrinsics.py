"""Machine instructions that numba has no name for: a load of eight bytes, counts of bits, a high product."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD, _WIDE = ir.IntType(64), ir.IntType(128)


@intrinsic
def load64(context, data, at):
    """The eight bytes data[at : at + 8] of a uint8 array as one uint64, the first one lowest.

    Nothing is checked: at + 8 must not exceed the length of `data`.
    """
    if not (isinstance(data, types.Array) and data.dtype == types.uint8 and data.layout == "C"):
        return None

    def build(target, builder, signature, arguments):
        array = target.make_array(signature.args[0])(target, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(place, _WORD.as_pointer()), align=1)

    return types.uint64(data, types.intp), build


@intrinsic
def trailing_zeros(context, number):
    """How many of the lowest bits of a uint64 are 0 (int64); 64 for 0."""

    def build(target, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), build


@intrinsic
def ones(context, number):
    """How many bits of a uint64 are 1 (int64)."""

    def build(target, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), build


@intrinsic
def high_product(context, first, second):
    """The upper 64 bits of the product of two uint64."""

    def build(target, builder, signature, arguments):
        product = builder.mul(*(builder.zext(one, _WIDE) for one in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(_WIDE, 64)), _WORD)

    return types.uint64(types.uint64, types.uint64), build
