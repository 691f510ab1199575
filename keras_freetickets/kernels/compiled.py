"""The kernels, as numba compiles them. Importing this imports numba.

Batches are packed: `(tiles, features, lanes)`, flat, so that the activations
of one feature for `lanes` examples are one vector. Each active weight is then
a multiplication of a vector by a number. A tile of the accumulators stays in
registers over all weights of an output unit.
"""

import functools
import hashlib
import os
import pathlib
import threading
import typing
from collections.abc import Callable

import numpy as np

from keras_freetickets.kernels import structure
from keras_freetickets.kernels.vectors import add
from keras_freetickets.kernels.vectors import dot
from keras_freetickets.kernels.vectors import filled
from keras_freetickets.kernels.vectors import load
from keras_freetickets.kernels.vectors import multiply_add
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import rectified
from keras_freetickets.kernels.vectors import store
from keras_freetickets.kernels.vectors import transpose_16
from keras_freetickets.kernels.vectors import value_at
from keras_freetickets.optional import import_optional
from keras_freetickets.types import Array

int64 = numba.int64
float32 = numba.float32
uint64 = numba.uint64
_Kept = typing.TypeVar("_Kept")


def cache_folder() -> pathlib.Path:
    """The folder where compiled kernels are kept between processes.

    Below `$NUMBA_CACHE_DIR` if it is set, else below `$XDG_CACHE_HOME`, by
    default `~/.cache`: never where the package lies, which may be read-only.
    It is named by a digest of the kernels' sources: numba looks whether the
    file of a function changed, not whether those that it calls did.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    asked = numba.config.CACHE_DIR
    folder = pathlib.Path(asked or home) / "keras_freetickets"
    return folder / _digest_of_sources()


@functools.cache
def _digest_of_sources() -> str:
    sources = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


# The setting is that of the process; two threads may load models at once.
_lock = threading.Lock()


def _keep(attach: Callable[[], _Kept]) -> _Kept | None:
    """Calls what looks for a folder, which is all that the setting is for.

    Returns:
        What it returns; `None` if there is no folder that can be written to.
    """
    with _lock:
        folder, before = cache_folder(), numba.config.CACHE_DIR
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                return None
            numba.config.CACHE_DIR = str(folder)
            return attach()
        except (OSError, RuntimeError):
            return None
        finally:
            numba.config.CACHE_DIR = before


def _name_with_values(function: Callable) -> str:
    """A function's name, and a digest of what it closes over.

    Numba tells functions of one name apart by a number that counts in each
    process. Of two that close over other values, one compiled here and one by
    a process before may have the same number: a third that calls both then
    calls one of them twice (numba 0.68).
    """
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    if not cells:
        return function.__qualname__
    values = [
        one.py_func.__qualname__ if hasattr(one, "py_func") else repr(one)
        for one in cells
    ]
    digest = hashlib.sha256(repr(values).encode()).hexdigest()
    return f"{function.__qualname__}_{digest[:8]}"


def compiled(function: Callable) -> Callable:
    """Compiles a kernel: without the GIL, kept between processes."""
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    function.__qualname__ = _name_with_values(function)
    kept = _keep(lambda: numba.njit(function, cache=True, **options))
    return kept or numba.njit(function, **options)


def callback(function: Callable, signature: typing.Any) -> typing.Any:
    """Compiles what a library calls by its address; kept between processes.

    Args:
        function: Callable. Of what it closes over, numba must find the same
            in the next process: numbers and types, no compiled functions and
            no addresses (see `addresses`).
        signature: Numba's, of C types.

    Returns:
        What `numba.cfunc` returns, which would look for a folder and compile
        at once: it has an `address`.
    """
    function.__qualname__ = _name_with_values(function)
    ccallback = import_optional("numba.core.ccallback")
    types = signature.args, signature.return_type
    made = ccallback.CFunc(function, types, {}, {"nopython": True})
    _keep(made.enable_caching)
    made.compile()
    return made


@functools.cache
def largest_tile() -> int:
    """Lanes of the largest tile whose accumulators fit the registers."""
    binding = import_optional("llvmlite.binding")
    wide = binding.get_host_cpu_features().get("avx512f", False)
    return 128 if wide else 32


def lanes_for(batch: int) -> int:
    """Lanes of the tiles that a batch is packed into.

    The most that pad it by no more than an eighth, or by less than 16.
    """
    for lanes in (128, 64, 32):
        padded = -(-batch // lanes) * lanes
        if lanes <= largest_tile() and padded <= batch * 9 // 8:
            return lanes
    return 16


_block_units = compiled(structure.block_units)


@compiled
def num_blocks(active: int, outputs: int) -> int:
    """`structure.num_blocks`, compiled."""
    units = _block_units(active, outputs)
    return (outputs + units - 1) // units


@compiled
def pack(
    x: Array, batch: int, features: int, lanes: int, packed: Array
) -> None:
    """`(batch, features)` to `(tiles, features, lanes)`, padded with zeros."""
    tiles = (batch + lanes - 1) // lanes
    whole = features // 16 * 16
    for tile in range(tiles):
        base = tile * features * lanes
        for lane in range(0, lanes, 16):
            row = tile * lanes + lane
            first = 0
            if row + 16 <= batch:
                first = whole
                for f in range(0, whole, 16):
                    at = row * features + f
                    to = base + f * lanes + lane
                    transpose_16(x, at, features, packed, to, lanes)
            for f in range(first, features):
                for i in range(16):
                    value = float32(0.0)
                    if row + i < batch:
                        value = x[(row + i) * features + f]
                    packed[base + f * lanes + lane + i] = value


@compiled
def unpack(
    packed: Array,
    batch: int,
    features: int,
    lanes: int,
    x: Array,
    begin: int,
    end: int,
) -> None:
    """The opposite of `pack`, for features from `begin`, a multiple of 16."""
    tiles = (batch + lanes - 1) // lanes
    whole = max(begin, end // 16 * 16)
    for tile in range(tiles):
        base = tile * features * lanes
        for lane in range(0, lanes, 16):
            row = tile * lanes + lane
            first = begin
            if row + 16 <= batch:
                first = whole
                for f in range(begin, whole, 16):
                    at = base + f * lanes + lane
                    to = row * features + f
                    transpose_16(packed, at, lanes, x, to, features)
            for i in range(min(16, batch - row)):
                for f in range(first, end):
                    place = base + f * lanes + lane + i
                    x[(row + i) * features + f] = packed[place]


@functools.cache
def forward(lanes: int) -> Callable:
    """Compiled for tiles of `lanes`: packed activations to packed outputs."""
    several = lanes <= 32  # chains of sums that hide the latency of one

    def forward_tiles(
        values: Array,
        pointers: Array,
        columns: Array,
        bias: Array,
        x: Array,
        y: Array,
        tiles: int,
        inputs: int,
        relu: bool,
        begin: int,
        end: int,
    ) -> None:
        outputs = len(pointers) - 1
        for tile in range(tiles):
            base = tile * inputs * lanes
            for unit in range(begin, end):
                total = filled(bias[unit], lanes)
                k, stop = pointers[unit], pointers[unit + 1]
                if several:
                    second = filled(float32(0.0), lanes)
                    third = second
                    fourth = second
                    while k + 4 <= stop:
                        at = base + int64(columns[k]) * lanes
                        vector = load(x, at, lanes)
                        total = multiply_add(value_at(values, k), vector, total)
                        at = base + int64(columns[k + 1]) * lanes
                        vector = load(x, at, lanes)
                        value = value_at(values, k + 1)
                        second = multiply_add(value, vector, second)
                        at = base + int64(columns[k + 2]) * lanes
                        vector = load(x, at, lanes)
                        value = value_at(values, k + 2)
                        third = multiply_add(value, vector, third)
                        at = base + int64(columns[k + 3]) * lanes
                        vector = load(x, at, lanes)
                        value = value_at(values, k + 3)
                        fourth = multiply_add(value, vector, fourth)
                        k += 4
                    total = add(add(total, second), add(third, fourth))
                while k < stop:
                    vector = load(x, base + int64(columns[k]) * lanes, lanes)
                    total = multiply_add(value_at(values, k), vector, total)
                    k += 1
                if relu:
                    total = rectified(total)
                store(y, (tile * outputs + unit) * lanes, total)

    return compiled(forward_tiles)


@functools.cache
def backward(lanes: int) -> Callable:
    """Compiled for tiles of `lanes`: gradients of inputs and of values.

    One pass over the weights by input: `x` and the sum of its gradient are in
    registers, and each weight loads one vector of `dy` for both products.
    """

    def backward_tiles(
        values: Array,
        pointers: Array,
        columns: Array,
        by_input: Array,
        units: Array,
        x: Array,
        dy: Array,
        dx: Array,
        dvalues: Array,
        tiles: int,
        inputs: int,
        begin: int,
        end: int,
    ) -> None:
        outputs = len(pointers) - 1
        blocks = num_blocks(len(values), outputs)
        places = np.empty(outputs, np.int64)
        if begin == 0:
            # Where no weight is: values may have room for more.
            for k in range(0 if tiles == 0 else pointers[outputs], len(values)):
                dvalues[k] = float32(0.0)
        for tile in range(tiles):
            for unit in range(outputs):
                # The first weight of an input from `begin` on.
                low, high = pointers[unit], pointers[unit + 1]
                while begin > 0 and low < high:
                    middle = (low + high) // 2
                    if int64(columns[middle]) < begin:
                        low = middle + 1
                    else:
                        high = middle
                places[unit] = low
            for block in range(blocks):
                first = block * _block_units(len(values), outputs)
                for i in range(begin, end):
                    at = (tile * inputs + i) * lanes
                    if block == 0:
                        total = filled(float32(0.0), lanes)
                    else:
                        total = load(dx, at, lanes)
                    j = by_input[block * inputs + i]
                    stop = by_input[block * inputs + i + 1]
                    if j < stop or block == 0:
                        vector = load(x, at, lanes)
                        while j < stop:
                            unit = first + int64(units[j])
                            k = places[unit]
                            places[unit] = k + 1
                            where = (tile * outputs + unit) * lanes
                            arriving = load(dy, where, lanes)
                            total = multiply_add(values[k], arriving, total)
                            product = dot(arriving, vector)
                            if tile == 0:
                                dvalues[k] = product
                            else:
                                dvalues[k] += product
                            j += 1
                        store(dx, at, total)

    return compiled(backward_tiles)


@compiled
def predict_one(
    values: Array,
    pointers: Array,
    columns: Array,
    bias: Array,
    x: Array,
    y: Array,
    relu: bool,
    begin: int,
    end: int,
) -> None:
    """Output for one example, a dot product for each output unit."""
    for unit in range(begin, end):
        # Unsigned: numba would ask of each place whether it counts from the
        # end.
        k, stop = uint64(pointers[unit]), uint64(pointers[unit + 1])
        a = bias[unit]
        b = float32(0.0)
        c = float32(0.0)
        d = float32(0.0)
        while k + uint64(4) <= stop:
            a += value_at(values, k) * x[uint64(columns[k])]
            k += uint64(1)
            b += value_at(values, k) * x[uint64(columns[k])]
            k += uint64(1)
            c += value_at(values, k) * x[uint64(columns[k])]
            k += uint64(1)
            d += value_at(values, k) * x[uint64(columns[k])]
            k += uint64(1)
        while k < stop:
            a += value_at(values, k) * x[uint64(columns[k])]
            k += uint64(1)
        total = (a + b) + (c + d)
        if relu and total < float32(0.0):
            total = float32(0.0)
        y[unit] = total


@compiled
def sum_tiles(
    dy: Array, tiles: int, features: int, lanes: int, total: Array
) -> None:
    """Sum over the batch of packed gradients: that of a bias."""
    ones = filled(float32(1.0), 16)
    for f in range(features):
        whole = filled(float32(0.0), 16)
        for tile in range(tiles):
            at = (tile * features + f) * lanes
            for i in range(0, lanes, 16):
                whole = add(whole, load(dy, at + i, 16))
        total[f] = dot(whole, ones)


@compiled
def gate(dy: Array, y: Array, gated: Array) -> None:
    """Gradients where a rectified output is not 0, else 0."""
    for i in range(len(dy)):
        gated[i] = float32(0.0) if y[i] == float32(0.0) else dy[i]
