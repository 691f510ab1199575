"""Vectors of floats for numba: a whole tile of a batch as one value.

LLVM cuts a vector of 128 floats into what the processor has (eight registers
with AVX-512, 16 with AVX2), so that one loop serves all; numba's own
vectorizer holds no accumulators in registers over an inner loop of unknown
length. Importing this module imports numba.
"""

from typing import Any

from keras_freetickets.optional import import_optional

numba = import_optional("numba")
ir = import_optional("llvmlite.ir")
extending = import_optional("numba.extending")
types = numba.types
_Type: Any = numba.types.Type
_Model: Any = extending.models.PrimitiveModel

# In prediction products and sums may be contracted and reordered. NaN and
# infinity stay. What training calls fixes each rounding: a process that
# compiled a kernel may run another copy of it than one that found it compiled,
# and LLVM would not reorder both alike.
FLAGS = ("contract", "reassoc", "nsz")
_REGISTER = 16  # lanes that `dot` sums at a time
_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)


class Vector(_Type):
    """Numba's type of a vector of `lanes` floats."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Vector({lanes})")


@extending.register_model(Vector)
class _VectorModel(_Model):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _vector_type(kind.lanes))


def _vector_type(lanes: int) -> Any:
    return ir.VectorType(_FLOAT, lanes)


def place_of(
    context: Any, builder: Any, kind: Any, array: Any, offset: Any
) -> Any:
    """Emits the address of an entry of a flat array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [offset], inbounds=True)


def _lanes(argument: Any) -> int | None:
    """The number of lanes, if it is known while compiling."""
    known = isinstance(argument, types.IntegerLiteral)
    return argument.literal_value if known else None


def emit_filled(builder: Any, scalar: Any, lanes: int) -> Any:
    """Emits a vector of `lanes` times the same float."""
    kind = _vector_type(lanes)
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(_INT32, 0))
    return _shuffled(builder, first, nothing, [0] * lanes)


def _shuffled(builder, one, other, places):
    kind = ir.VectorType(_INT32, len(places))
    return builder.shuffle_vector(one, other, ir.Constant(kind, list(places)))


@extending.intrinsic(prefer_literal=True)
def load(typing_context: Any, array: Any, offset: Any, lanes: Any) -> Any:
    """`array[offset : offset + lanes]` of a flat float array."""
    count = _lanes(lanes)
    if count is None:
        return None

    def emit(context, builder, signature, arguments):
        kind, (array, offset, _) = signature.args[0], arguments
        place = place_of(context, builder, kind, array, offset)
        place = builder.bitcast(place, _vector_type(count).as_pointer())
        return builder.load(place, align=4)

    return Vector(count)(array, types.intp, lanes), emit


@extending.intrinsic(prefer_literal=True)
def store(typing_context: Any, array: Any, offset: Any, vector: Any) -> Any:
    """Writes a vector to `array[offset : offset + lanes]`."""

    def emit(context, builder, signature, arguments):
        kind, (array, offset, value) = signature.args[0], arguments
        place = place_of(context, builder, kind, array, offset)
        place = builder.bitcast(place, value.type.as_pointer())
        builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@extending.intrinsic(prefer_literal=True)
def filled(typing_context: Any, scalar: Any, lanes: Any) -> Any:
    """A vector of `lanes` times the same float."""
    count = _lanes(lanes)
    if count is None:
        return None

    def emit(context, builder, signature, arguments):
        return emit_filled(builder, arguments[0], count)

    return Vector(count)(types.float32, lanes), emit


@extending.intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """An address, an integer, as a pointer that `carray` takes."""

    def emit(context, builder, signature, arguments):
        kind = ir.IntType(8).as_pointer()
        return builder.inttoptr(arguments[0], kind)

    return types.voidptr(types.uintp), emit


@extending.intrinsic
def multiply_add(
    typing_context: Any, scalar: Any, vector: Any, total: Any
) -> Any:
    """`total + scalar * vector`."""

    def emit(context, builder, signature, arguments):
        scalar, vector, total = arguments
        scalars = emit_filled(builder, scalar, vector.type.count)
        return _multiplied_and_added(builder, scalars, vector, total)

    return vector(types.float32, vector, total), emit


def _multiplied_and_added(builder, one, other, total):
    """One rounding where the processor has it, else two."""
    kind = ir.FunctionType(total.type, [total.type] * 3)
    name = f"llvm.fmuladd.v{total.type.count}f32"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, [one, other, total])


@extending.intrinsic
def add(typing_context: Any, one: Any, other: Any) -> Any:
    """The sum of two vectors."""

    def emit(context, builder, signature, arguments):
        return builder.fadd(*arguments)

    return one(one, other), emit


@extending.intrinsic
def rectified(typing_context: Any, vector: Any) -> Any:
    """Zero where a vector is negative; NaN stays."""

    def emit(context, builder, signature, arguments):
        return emit_rectified(builder, *arguments)

    return vector(vector), emit


def emit_rectified(builder: Any, vector: Any) -> Any:
    """Emits zero where a vector is negative; NaN stays."""
    zero = ir.Constant(vector.type, None)
    negative = builder.fcmp_ordered("<", vector, zero)
    return builder.select(negative, zero, vector)


@extending.intrinsic
def dot(typing_context: Any, one: Any, other: Any) -> Any:
    """The sum of the products of two vectors."""

    def emit(context, builder, signature, arguments):
        lanes = arguments[0].type.count
        pairs = [
            [
                _shuffled(builder, one, one, range(first, first + _REGISTER))
                for one in arguments
            ]
            for first in range(0, lanes, _REGISTER)
        ]
        total = builder.fmul(*pairs[0])
        for left, right in pairs[1:]:
            total = _multiplied_and_added(builder, left, right, total)
        half = _REGISTER // 2
        while half:
            low, high = (
                _shuffled(builder, total, total, range(first, first + half))
                for first in (0, half)
            )
            total = builder.fadd(low, high)
            half //= 2
        return builder.extract_element(total, ir.Constant(_INT32, 0))

    return types.float32(one, other), emit


@extending.intrinsic
def value_at(typing_context: Any, values: Any, place: Any) -> Any:
    """A stored value as a float32.

    Numba knows neither bfloat16 nor, on processors, float16. Their bits come
    as `uint16` (bfloat16) and `int16` (float16).
    """
    stored = values.dtype

    def emit(context, builder, signature, arguments):
        kind, (array, offset) = signature.args[0], arguments
        value = builder.load(place_of(context, builder, kind, array, offset))
        if stored == types.uint16:
            bits = builder.zext(value, _INT32)
            return builder.bitcast(
                builder.shl(bits, ir.Constant(_INT32, 16)), _FLOAT
            )
        if stored == types.int16:
            half = builder.bitcast(value, ir.HalfType())
            return builder.fpext(half, _FLOAT)
        return value

    return types.float32(values, types.intp), emit


@extending.intrinsic
def transpose_16(
    typing_context: Any,
    source: Any,
    source_at: Any,
    source_row: Any,
    target: Any,
    target_at: Any,
    target_row: Any,
) -> Any:
    """Writes 16 x 16 floats of a flat array transposed to another.

    Row `i` begins at `source_at + i * source_row`; likewise in the target.
    """

    def emit(context, builder, signature, arguments):
        source, at, row, target, to, to_row = arguments
        kinds = signature.args
        pointer = _vector_type(16).as_pointer()

        def place(kind, array, first, stride, i):
            step = builder.mul(stride, ir.Constant(stride.type, i))
            offset = builder.add(first, step)
            found = place_of(context, builder, kind, array, offset)
            return builder.bitcast(found, pointer)

        rows = [
            builder.load(place(kinds[0], source, at, row, i), align=4)
            for i in range(16)
        ]
        # Four times, rows i and i + 8 are interleaved: a bit of the row's
        # number moves to the column's each time.
        low = [n for i in range(8) for n in (i, i + 16)]
        high = [n + 8 for n in low]
        for _ in range(4):
            rows = [
                _shuffled(builder, rows[i], rows[i + 8], half)
                for i in range(8)
                for half in (low, high)
            ]
        for i, value in enumerate(rows):
            where = place(kinds[3], target, to, to_row, i)
            builder.store(value, where, align=4)
        return context.get_dummy_value()

    signature = types.void(
        source, types.intp, types.intp, target, types.intp, types.intp
    )
    return signature, emit


def has_permutations() -> bool:
    """Whether the processor that numba compiles for has AVX-512.

    `permuted` and `add_products` need it: LLVM ends the process otherwise.
    """
    if numba.config.CPU_FEATURES is not None:
        return "+avx512f" in numba.config.CPU_FEATURES
    if numba.config.CPU_NAME not in (None, "host"):
        return False
    binding = import_optional("llvmlite.binding")
    return bool(binding.get_host_cpu_features().get("avx512f", False))


def _instruction(builder, name, *arguments):
    """Calls one that returns what its first argument is."""
    kinds = [argument.type for argument in arguments]
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(kinds[0], kinds)
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _bits(builder, vector):
    return builder.bitcast(vector, ir.VectorType(_INT32, vector.type.count))


@extending.intrinsic(prefer_literal=True)
def shifted(typing_context: Any, vector: Any, count: Any) -> Any:
    """The bits of each lane, by `count` places to the right."""
    places = _lanes(count)
    if places is None:
        return None

    def emit(context, builder, signature, arguments):
        bits = _bits(builder, arguments[0])
        found = builder.lshr(bits, ir.Constant(bits.type, [places] * 16))
        return builder.bitcast(found, arguments[0].type)

    # With the literal in the signature: numba keeps one result of each.
    return vector(vector, count), emit


@extending.intrinsic
def permuted(typing_context: Any, vector: Any, places: Any) -> Any:
    """The entries of a vector of 16 that the last four bits of `places` name.

    `places` is a vector of bits.
    """

    def emit(context, builder, signature, arguments):
        vector, places = arguments
        name = "llvm.x86.avx512.permvar.sf.512"
        return _instruction(builder, name, vector, _bits(builder, places))

    return vector(vector, vector), emit


@extending.intrinsic
def add_products(
    typing_context: Any,
    total: Any,
    values: Any,
    offset: Any,
    count: Any,
    places: Any,
    low: Any,
    high: Any,
) -> Any:
    """Adds products of values and entries of a table to the first lanes.

    To the first `count` of the lanes of `total`, 16 or 8, it adds
    `values[offset:]`, of which as many are read as there are lanes, times the
    entries of the table that the last five bits of `places` name, where the
    table is the vectors `low` and `high`.
    """
    size = total.lanes

    def emit(context, builder, signature, arguments):
        total, values, offset, count, places, low, high = arguments
        name = "llvm.x86.avx512.vpermi2var.ps.512"
        places = _bits(builder, places)
        inputs = _instruction(builder, name, low, places, high)
        inputs = _first_lanes(builder, inputs, size)
        place = place_of(context, builder, signature.args[1], values, offset)
        place = builder.bitcast(place, _vector_type(size).as_pointer())
        factors = builder.load(place, align=4)
        one = ir.Constant(_INT32, 1)
        shifted = builder.shl(one, builder.trunc(count, _INT32))
        bits = builder.sub(shifted, one)
        bits = builder.trunc(bits, ir.IntType(size))
        lanes = builder.bitcast(bits, ir.VectorType(ir.IntType(1), size))
        products = builder.fmul(factors, inputs, flags=FLAGS)
        sums = builder.fadd(total, products, flags=FLAGS)
        return builder.select(lanes, sums, total)

    signature = total(total, values, types.intp, types.intp, places, low, high)
    return signature, emit


@extending.intrinsic(prefer_literal=True)
def widened(typing_context: Any, vector: Any, lanes: Any) -> Any:
    """A vector of `lanes`, whose last lanes are 0."""
    count = _lanes(lanes)
    if count is None:
        return None

    def emit(context, builder, signature, arguments):
        return _first_lanes(builder, arguments[0], count)

    return Vector(count)(vector, types.intp), emit


def _first_lanes(builder, vector, lanes):
    """The first lanes of a vector, or all of it and then zeros."""
    zeros = ir.Constant(vector.type, None)
    return _shuffled(builder, vector, zeros, range(lanes))
