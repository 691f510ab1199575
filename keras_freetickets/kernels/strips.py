"""Strips of pixels for numba: several vectors of 16 floats, held in registers.

A strip is a tuple of vectors. Unlike one long vector (`vectors.py`), it may
have any number of them: LLVM fills other lengths up to the next power of two.
Importing this module imports numba.
"""

from typing import Any

from keras_freetickets.kernels import vectors
from keras_freetickets.kernels.vectors import FLAGS
from keras_freetickets.kernels.vectors import Vector
from keras_freetickets.kernels.vectors import emit_filled
from keras_freetickets.kernels.vectors import emit_rectified
from keras_freetickets.kernels.vectors import extending
from keras_freetickets.kernels.vectors import ir
from keras_freetickets.kernels.vectors import place_of
from keras_freetickets.kernels.vectors import types

WIDTH = 16  # pixels of a vector
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_INTEGERS = ir.VectorType(ir.IntType(32), WIDTH)


def _strip_of(count: Any) -> Any:
    """The type of a strip, if its length is known while compiling."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    return types.UniTuple(Vector(WIDTH), count.literal_value)


def _place(context, builder, kind, array, at, vector, i):
    """The address of vector `i` of those that begin at a place."""
    offset = builder.add(at, ir.Constant(at.type, WIDTH * i))
    place = place_of(context, builder, kind, array, offset)
    return builder.bitcast(place, vector.as_pointer())


def _load(context, builder, kind, array, at, i, vector=_FLOATS):
    place = _place(context, builder, kind, array, at, vector, i)
    return builder.load(place, align=4)


def _each(change):
    """An emitter that changes each vector of a strip, the first argument."""

    def emit(context, builder, signature, arguments):
        kind = signature.return_type
        changed = [
            change(
                *(context, builder, signature, arguments),
                *(builder.extract_value(arguments[0], i), i),
            )
            for i in range(kind.count)
        ]
        return context.make_tuple(builder, kind, changed)

    return emit


@extending.intrinsic(prefer_literal=True)
def filled_strip(typing_context: Any, scalar: Any, count: Any) -> Any:
    """A strip of `count` vectors of the same float."""
    strip = _strip_of(count)
    if strip is None:
        return None

    def emit(context, builder, signature, arguments):
        vector = emit_filled(builder, arguments[0], WIDTH)
        return context.make_tuple(builder, strip, [vector] * strip.count)

    return strip(types.float32, count), emit


@extending.intrinsic
def add_product(
    typing_context: Any, strip: Any, scalar: Any, array: Any, at: Any
) -> Any:
    """`strip + scalar * array[at:]`, of a flat float array."""

    def change(context, builder, signature, arguments, vector, i):
        _, scalar, array, at = arguments
        loaded = _load(context, builder, signature.args[2], array, at, i)
        factor = emit_filled(builder, scalar, WIDTH)
        product = builder.fmul(factor, loaded, flags=FLAGS)
        return builder.fadd(vector, product, flags=FLAGS)

    return strip(strip, types.float32, array, types.intp), _each(change)


@extending.intrinsic
def add_loaded(typing_context: Any, strip: Any, array: Any, at: Any) -> Any:
    """`strip + array[at:]`."""

    def change(context, builder, signature, arguments, vector, i):
        _, array, at = arguments
        loaded = _load(context, builder, signature.args[1], array, at, i)
        return builder.fadd(vector, loaded, flags=FLAGS)

    return strip(strip, array, types.intp), _each(change)


@extending.intrinsic
def most_loaded(typing_context: Any, strip: Any, array: Any, at: Any) -> Any:
    """The greater of `strip` and `array[at:]`; NaN where one is."""

    def change(context, builder, signature, arguments, vector, i):
        _, array, at = arguments
        loaded = _load(context, builder, signature.args[1], array, at, i)
        greater = builder.fcmp_ordered(">", vector, loaded)
        absent = builder.fcmp_unordered("uno", vector, vector)
        return builder.select(builder.or_(greater, absent), vector, loaded)

    return strip(strip, array, types.intp), _each(change)


@extending.intrinsic
def times_loaded(typing_context: Any, strip: Any, array: Any, at: Any) -> Any:
    """`strip * array[at:]`."""

    def change(context, builder, signature, arguments, vector, i):
        _, array, at = arguments
        loaded = _load(context, builder, signature.args[1], array, at, i)
        return builder.fmul(vector, loaded, flags=FLAGS)

    return strip(strip, array, types.intp), _each(change)


@extending.intrinsic
def scaled_strip(
    typing_context: Any, strip: Any, factor: Any, offset: Any
) -> Any:
    """`factor * strip + offset`, of two floats."""

    def change(context, builder, signature, arguments, vector, i):
        factor, offset = (
            emit_filled(builder, one, WIDTH) for one in arguments[1:]
        )
        product = builder.fmul(factor, vector, flags=FLAGS)
        return builder.fadd(offset, product, flags=FLAGS)

    return strip(strip, types.float32, types.float32), _each(change)


@extending.intrinsic
def rectified_strip(typing_context: Any, strip: Any) -> Any:
    """Zero where a strip is negative; NaN stays."""

    def change(context, builder, signature, arguments, vector, i):
        return emit_rectified(builder, vector)

    return strip(strip), _each(change)


@extending.intrinsic
def kept_strip(typing_context: Any, strip: Any, bits: Any, at: Any) -> Any:
    """Zero where `bits[at:]`, of an int32 array, is 0; it is -1 elsewhere.

    Bit by bit, so that zero comes from NaN and infinity too.
    """

    def change(context, builder, signature, arguments, vector, i):
        _, bits, at = arguments
        kind = signature.args[1]
        kept = _load(context, builder, kind, bits, at, i, _INTEGERS)
        pixels = builder.bitcast(vector, _INTEGERS)
        return builder.bitcast(builder.and_(pixels, kept), _FLOATS)

    return strip(strip, bits, types.intp), _each(change)


@extending.intrinsic
def store_strip(typing_context: Any, array: Any, at: Any, strip: Any) -> Any:
    """Writes a strip to `array[at:]`."""

    def emit(context, builder, signature, arguments):
        array, at, vectors_of_strip = arguments
        kind = signature.args[0]
        for i in range(strip.count):
            place = _place(context, builder, kind, array, at, _FLOATS, i)
            value = builder.extract_value(vectors_of_strip, i)
            builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, strip), emit


@extending.intrinsic(prefer_literal=True)
def load_every(typing_context: Any, array: Any, at: Any, step: Any) -> Any:
    """16 floats of a flat array, one in `step`, from a place on."""
    if not isinstance(step, types.IntegerLiteral):
        return None
    stride = step.literal_value

    def emit(context, builder, signature, arguments):
        array, at, _ = arguments
        kind = ir.VectorType(ir.FloatType(), WIDTH * stride)
        loaded = _load(context, builder, signature.args[0], array, at, 0, kind)
        places = ir.Constant(_INTEGERS, [stride * i for i in range(WIDTH)])
        nothing = ir.Constant(kind, ir.Undefined)
        return builder.shuffle_vector(loaded, nothing, places)

    return Vector(WIDTH)(array, types.intp, step), emit


def longest() -> int:
    """Vectors of the longest strip whose sums fit the registers."""
    return 12 if vectors.has_permutations() else 6
