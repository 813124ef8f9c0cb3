"""Machine instructions that numba has no name for: wide loads, stores, prefetches, masks, bits, a high product."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_BYTE, _INT, _WORD, _WIDE = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.IntType(128)


def _is_bytes(data) -> bool:
    return isinstance(data, types.Array) and data.dtype == types.uint8 and data.layout == "C"


@intrinsic
def load64(context, data, at):
    """The eight bytes data[at : at + 8] of a uint8 array as one uint64, the first one lowest.

    Nothing is checked: at + 8 must not exceed the length of `data`.
    """
    if not _is_bytes(data):
        return None

    def build(target, builder, signature, arguments):
        array = target.make_array(signature.args[0])(target, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(place, _WORD.as_pointer()), align=1)

    return types.uint64(data, types.intp), build


@intrinsic
def store64(context, data, at, word):
    """Write a uint64 to data[at : at + 8] of a uint8 array, the lowest byte first.

    Nothing is checked: at + 8 must not exceed the length of `data`.
    """
    if not (isinstance(data, types.Array) and data.dtype == types.uint8 and data.mutable and data.layout == "C"):
        return None

    def build(target, builder, signature, arguments):
        array = target.make_array(signature.args[0])(target, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        builder.store(arguments[2], builder.bitcast(place, _WORD.as_pointer()), align=1)
        return target.get_dummy_value()

    return types.none(data, types.intp, types.uint64), build


@intrinsic
def trailing_zeros(context, number):
    """How many of the lowest bits of a uint64 are 0 (int64); 64 for 0."""

    def build(target, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), build


@intrinsic
def leading_zeros(context, number):
    """How many of the highest bits of a uint64 are 0 (int64); 64 for 0."""

    def build(target, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

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


@intrinsic
def swapped(context, number):
    """The bytes of a uint64 in the opposite order."""

    def build(target, builder, signature, arguments):
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), build


_LANES = ir.VectorType(ir.IntType(8), 64)


def _all(byte: int) -> ir.Constant:
    return ir.Constant(_LANES, [byte] * 64)


def _lanes(target, builder, signature, arguments):
    """The 64 bytes of a uint8 array from a place on, as a vector."""
    array = target.make_array(signature.args[0])(target, builder, arguments[0])
    place = builder.gep(array.data, [arguments[1]])
    return builder.load(builder.bitcast(place, _LANES.as_pointer()), align=1)


def _between(builder, lanes, first: int, last: int):
    return builder.icmp_unsigned("<", builder.sub(lanes, _all(first)), _all(last - first + 1))


def _mask_of(choose):
    """An intrinsic: of data[at : at + 64] the mask of the bytes that `choose` chooses, the first one's bit lowest.

    Nothing is checked: at + 64 must not exceed the length of `data`.
    """

    def mask(context, data, at):
        if not _is_bytes(data):
            return None

        def build(target, builder, signature, arguments):
            lanes = _lanes(target, builder, signature, arguments)
            return builder.bitcast(choose(builder, lanes), _WORD)

        return types.uint64(data, types.intp), build

    return intrinsic(mask)


def _in_word(builder, lanes):
    letters = _between(builder, builder.or_(lanes, _all(0x20)), 0x61, 0x7A)
    others = builder.or_(_between(builder, lanes, 0x30, 0x39), builder.icmp_unsigned("==", lanes, _all(0x5F)))
    return builder.or_(letters, others)


def _in_string(builder, lanes):
    special = builder.or_(
        builder.icmp_unsigned("==", lanes, _all(0x22)), builder.icmp_unsigned("==", lanes, _all(0x5C))
    )
    return builder.or_(special, builder.icmp_unsigned("<", lanes, _all(0x20)))


def _is(byte: int):
    return lambda builder, lanes: builder.icmp_unsigned("==", lanes, _all(byte))


def _any(*choices):
    def choose(builder, lanes):
        chosen = [choice(builder, lanes) for choice in choices]
        return reduce(builder.or_, chosen)

    return choose


def _range(first: int, last: int):
    return lambda builder, lanes: _between(builder, lanes, first, last)


def any_byte_mask(chosen: bytes):
    """An intrinsic like `word_mask`, of the bytes in `chosen`."""
    return _mask_of(_any(*map(_is, chosen)))


def _shifted(builder, lanes, by: int):
    """The lanes from number `by` on, then zeros."""
    places = ir.Constant(ir.VectorType(_INT, 64), list(range(by, by + 64)))
    return builder.shuffle_vector(lanes, _all(0), places) if by else lanes


def sequences_mask(sequences: Iterable[bytes], any_case: bool = False):
    """An intrinsic like `word_mask`, of the bytes at which one of the sequences begins.

    One that goes on past the block is not found. With `any_case` they are lowercase letters of ASCII and stand for
    those in upper case, too.
    """
    sequences = list(sequences)

    def choose(builder, lanes):
        if any_case:
            lanes = builder.or_(lanes, _all(0x20))
        shifted = [_shifted(builder, lanes, by) for by in range(max(map(len, sequences)))]
        least = _all(0xFF)  # 0 in the lanes at which a sequence begins
        for sequence in sequences:
            others = [builder.xor(shifted[by], _all(byte)) for by, byte in enumerate(sequence)]
            other = reduce(builder.or_, others)
            least = builder.select(builder.icmp_unsigned("<", least, other), least, other)
        return builder.icmp_unsigned("==", least, _all(0))

    return _mask_of(choose)


def pairs_mask(*pairs: tuple[tuple[int, int], tuple[int, int]]):
    """An intrinsic like `word_mask`, of the bytes from which on two are of the first and last values of a pair."""

    def choose(builder, lanes):
        both = lanes, _shifted(builder, lanes, 1)
        found = [
            builder.and_(*(_between(builder, one, *span) for one, span in zip(both, pair, strict=True)))
            for pair in pairs
        ]
        return reduce(builder.or_, found)

    return _mask_of(choose)


def _letters(builder, lanes):
    return _between(builder, builder.or_(lanes, _all(0x20)), 0x61, 0x7A)


word_mask = _mask_of(_in_word)  # ASCII letters, digits, underscores
letter_mask = _mask_of(_letters)  # ASCII letters
capital_mask = _mask_of(_range(0x41, 0x5A))  # A to Z
base64_mask = _mask_of(_any(_letters, _range(0x2F, 0x39), *map(_is, b"+=\n")))
hex_mask = _mask_of(_any(_range(0x30, 0x39), _range(0x41, 0x46), _range(0x61, 0x66)))  # hexadecimal digits
digit_mask = _mask_of(_range(0x30, 0x39))  # 0 to 9
middle_mask = _mask_of(_any(_is(0x27), _is(0x2E)))  # ' and .
comma_mask = _mask_of(_is(0x2C))
white_mask = _mask_of(_any(_range(0x09, 0x0D), _range(0x1C, 0x20)))  # what `str.isspace` takes for white space
_PUNCTUATION = ((0x21, 0x23), (0x25, 0x2A), (0x2C, 0x2F), (0x3A, 0x3B), (0x3F, 0x40), (0x5B, 0x5D))
_PUNCTUATION += ((0x5F, 0x5F), (0x7B, 0x7B), (0x7D, 0x7D))
punctuation_mask = _mask_of(_any(*(_range(*span) for span in _PUNCTUATION)))  # ASCII of general category P
space_mask = _mask_of(_is(0x20))
end_mask = _mask_of(_any(_is(0x2E), _is(0x21), _is(0x3F)))  # . ! ?
going_on_mask = _mask_of(_range(0x80, 0xBF))  # bytes that go on a character of UTF-8
beyond_mask = _mask_of(lambda builder, lanes: builder.icmp_signed("<", lanes, _all(0)))  # beyond ASCII
string_mask = _mask_of(_in_string)  # what ends a run of plain bytes in a JSON string: " \ and control characters
line_end_mask = _mask_of(lambda builder, lanes: builder.icmp_unsigned("==", lanes, _all(0x0A)))


@intrinsic
def move64(context, data, at, target, to):
    """target[to : to + 64] <- data[at : at + 64], both uint8. Nothing is checked: both must have that many."""
    if not (_is_bytes(data) and _is_bytes(target)):
        return None

    def build(context_, builder, signature, arguments):
        array = context_.make_array(signature.args[2])(context_, builder, arguments[2])
        place = builder.gep(array.data, [arguments[3]])
        lanes = _lanes(context_, builder, signature, arguments)
        builder.store(lanes, builder.bitcast(place, _LANES.as_pointer()), align=1)
        return context_.get_dummy_value()

    return types.void(data, types.intp, target, types.intp), build


def element(target, builder, kind, array, index):
    """For builders of intrinsics: the address of element `index` of an array, flat."""
    return builder.gep(target.make_array(kind)(target, builder, array).data, [index])


@intrinsic
def prefetch(context, array, at):
    """Fetch the cache line of element `at` of an array, flat, into the nearest cache, and do not wait for it.

    Nothing is read and nothing can fail: any number is allowed.
    """

    def build(target, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT, _INT, _INT])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
        place = builder.bitcast(element(target, builder, signature.args[0], *arguments), _BYTE.as_pointer())
        builder.call(function, [place, _INT(0), _INT(3), _INT(1)])  # to be read, kept in all caches, data
        return target.get_dummy_value()

    return types.void(array, types.intp), build


@intrinsic
def least_mask(context, data, at, least):
    """Of data[at : at + 64] the mask of the bytes that are `least` (uint8) or more, the first one's bit lowest.

    Nothing is checked: at + 64 must not exceed the length of `data`.
    """
    if not _is_bytes(data):
        return None

    def build(target, builder, signature, arguments):
        one = builder.insert_element(ir.Constant(_LANES, ir.Undefined), arguments[2], _INT(0))
        each = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, 64), [0] * 64))
        lanes = _lanes(target, builder, signature, arguments)
        return builder.bitcast(builder.icmp_unsigned(">=", lanes, each), _WORD)

    return types.uint64(data, types.intp, types.uint8), build
