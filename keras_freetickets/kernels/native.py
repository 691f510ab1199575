"""Whole passes of a layer over plain memory, for calls that pass no Python.

A backend's custom call hands over addresses. Batches come with the examples
outermost, as Keras has them, and go so.
"""

import typing

from keras_freetickets.kernels import compiled
from keras_freetickets.kernels.fork_join import parts_of
from keras_freetickets.kernels.fork_join import run_parts
from keras_freetickets.kernels.fork_join import threads_of_process
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer
from keras_freetickets.types import Array

carray = numba.carray
float32 = numba.float32
int32 = numba.int32
int64 = numba.int64
uint16 = numba.uint16
_num_blocks = compiled.num_blocks


_LARGEST = compiled.largest_tile()
# Globals, not variables of an enclosing function: numba keeps compiled code
# under the values of those, and functions among them are never the same.
_pack, _unpack = compiled.pack, compiled.unpack
_gate, _sum_tiles = compiled.gate, compiled.sum_tiles
_predict_one = compiled.predict_one
_forward_16, _forward_32 = compiled.forward(16), compiled.forward(32)
_forward_64, _forward_128 = compiled.forward(64), compiled.forward(128)
_backward_16, _backward_32 = compiled.backward(16), compiled.backward(32)
_backward_64, _backward_128 = compiled.backward(64), compiled.backward(128)


@compiled.compiled
def lanes_for(batch: int) -> int:
    """`compiled.lanes_for`, compiled."""
    for lanes in (128, 64, 32):
        padded = (batch + lanes - 1) // lanes * lanes
        if lanes <= _LARGEST and padded <= batch * 9 // 8:
            return lanes
    return 16


@compiled.compiled
def flag_at(address: int) -> bool:
    """An `int32` at an address, as a boolean."""
    return carray(pointer(address), 1, int32)[0] != 0


@compiled.compiled
def scratch_floats(batch: int, features: int) -> int:
    """Floats that a packed batch may take, whatever its lanes."""
    return features * (batch * 9 // 8 + 16)


@compiled.compiled
def _end_of_part(
    pointers: Array, blocks: int, rows: int, part: int, parts: int
) -> int:
    """Where a part of some rows ends, so that all have as many weights.

    Args:
        pointers: int32 array `(blocks * rows + 1,)`, where the weights of a
            row in a block begin.
        blocks: Integer.
        rows: Integer, output units or inputs.
        part: Integer, from 1 on.
        parts: Integer.

    Returns:
        Integer, but for the last part a multiple of 16.
    """
    if part == parts:
        return rows
    goal = int64(pointers[blocks * rows]) * part // parts
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        before = 0
        for row in range(0, blocks * rows, rows):
            before += pointers[row + middle] - pointers[row]
        if before < goal:
            low = middle + 1
        else:
            high = middle
    return low // 16 * 16


@compiled.compiled
def _forward_part(part: int, parts: int, arguments: tuple) -> None:
    """The output of some units."""
    values, pointers, columns, bias, x, y, batch, inputs, relu, ys = arguments
    outputs = len(pointers) - 1
    begin = _end_of_part(pointers, 1, outputs, part, parts)
    end = _end_of_part(pointers, 1, outputs, part + 1, parts)
    if batch == 1:
        _predict_one(values, pointers, columns, bias, x, y, relu, begin, end)
        return
    lanes = lanes_for(batch)
    tiles = (batch + lanes - 1) // lanes
    kernel = (values, pointers, columns, bias, x, ys, tiles, inputs, relu)
    if lanes == 16:
        _forward_16(*kernel, begin, end)
    elif lanes == 32:
        _forward_32(*kernel, begin, end)
    elif lanes == 64:
        _forward_64(*kernel, begin, end)
    else:
        _forward_128(*kernel, begin, end)
    _unpack(ys, batch, outputs, lanes, y, begin, end)


@compiled.compiled
def forward(
    values: Array,
    pointers: Array,
    columns: Array,
    bias: Array,
    x: Array,
    y: Array,
    batch: int,
    inputs: int,
    relu: bool,
    xs: Array,
    ys: Array,
    threads: int,
) -> None:
    """A layer's output.

    `xs` and `ys` are memory to work in, `threads` is the address of
    `threads.settings`.
    """
    if batch > 1:
        _pack(x, batch, inputs, lanes_for(batch), xs)
        x = xs
    arguments = (values, pointers, columns, bias, x, y, batch, inputs, relu, ys)
    parts = parts_of(len(values) * batch, threads)
    run_parts(_forward_part, parts, arguments)


@compiled.compiled
def _backward_part(part: int, parts: int, arguments: tuple) -> None:
    """The gradients of some inputs and of their weights."""
    values, pointers, columns, by_input, units = arguments[:5]
    xs, dys, dxs, dx, dvalues, batch, inputs = arguments[5:]
    blocks = (len(by_input) - 1) // inputs
    begin = _end_of_part(by_input, blocks, inputs, part, parts)
    end = _end_of_part(by_input, blocks, inputs, part + 1, parts)
    lanes = lanes_for(batch)
    tiles = (batch + lanes - 1) // lanes
    where = (values, pointers, columns, by_input, units)
    arrays = (xs, dys, dxs, dvalues, tiles, inputs, begin, end)
    if lanes == 16:
        _backward_16(*where, *arrays)
    elif lanes == 32:
        _backward_32(*where, *arrays)
    elif lanes == 64:
        _backward_64(*where, *arrays)
    else:
        _backward_128(*where, *arrays)
    _unpack(dxs, batch, inputs, lanes, dx, begin, end)


@compiled.compiled
def backward(
    values: Array,
    pointers: Array,
    columns: Array,
    by_input: Array,
    units: Array,
    x: Array,
    dy: Array,
    y: Array,
    dx: Array,
    dvalues: Array,
    dbias: Array,
    batch: int,
    inputs: int,
    relu: bool,
    xs: Array,
    dys: Array,
    dxs: Array,
    threads: int,
) -> None:
    """A layer's gradients; the last four as for `forward`."""
    outputs = len(pointers) - 1
    lanes = lanes_for(batch)
    tiles = (batch + lanes - 1) // lanes
    if relu:
        _gate(dy, y, dxs[: batch * outputs])
        _pack(dxs, batch, outputs, lanes, dys)
    else:
        _pack(dy, batch, outputs, lanes, dys)
    _pack(x, batch, inputs, lanes, xs)
    _sum_tiles(dys, tiles, outputs, lanes, dbias)
    where = (values, pointers, columns, by_input, units)
    arguments = (*where, xs, dys, dxs, dx, dvalues, batch, inputs)
    parts = parts_of(2 * len(values) * batch, threads)
    run_parts(_backward_part, parts, arguments)


@compiled.compiled
def forward_at(
    column: typing.Any,
    v: int,
    p: int,
    c: int,
    b: int,
    x: int,
    y: int,
    xs: int,
    ys: int,
    relu: bool,
    active: int,
    outputs: int,
    batch: int,
    inputs: int,
) -> None:
    """`forward` on addresses.

    They are of `values, pointers, columns, bias, x, y, xs, ys`; `column` is
    numba's type of column indices.
    """
    n, m = scratch_floats(batch, inputs), scratch_floats(batch, outputs)
    forward(
        carray(pointer(v), active, float32),
        carray(pointer(p), outputs + 1, int32),
        carray(pointer(c), active, column),
        carray(pointer(b), outputs, float32),
        carray(pointer(x), batch * inputs, float32),
        carray(pointer(y), batch * outputs, float32),
        batch,
        inputs,
        relu,
        carray(pointer(xs), n, float32),
        carray(pointer(ys), m, float32),
        threads_of_process(),
    )


@compiled.compiled
def backward_at(
    column: typing.Any,
    v: int,
    p: int,
    c: int,
    bi: int,
    u: int,
    x: int,
    dy: int,
    y: int,
    dx: int,
    dv: int,
    db: int,
    xs: int,
    dys: int,
    dxs: int,
    relu: bool,
    active: int,
    outputs: int,
    batch: int,
    inputs: int,
) -> None:
    """`backward` on addresses, in its order; `column` as for `forward_at`.

    `dxs` must hold a packed batch of either side.
    """
    blocks = _num_blocks(active, outputs)
    n, m = scratch_floats(batch, inputs), scratch_floats(batch, outputs)
    backward(
        carray(pointer(v), active, float32),
        carray(pointer(p), outputs + 1, int32),
        carray(pointer(c), active, column),
        carray(pointer(bi), blocks * inputs + 1, int32),
        carray(pointer(u), active, uint16),
        carray(pointer(x), batch * inputs, float32),
        carray(pointer(dy), batch * outputs, float32),
        carray(pointer(y), batch * outputs, float32),
        carray(pointer(dx), batch * inputs, float32),
        carray(pointer(dv), active, float32),
        carray(pointer(db), outputs, float32),
        batch,
        inputs,
        relu,
        carray(pointer(xs), n, float32),
        carray(pointer(dys), m, float32),
        carray(pointer(dxs), max(n, m), float32),
        threads_of_process(),
    )
