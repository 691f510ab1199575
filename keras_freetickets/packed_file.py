"""Small files of sparse ensembles: places in few bits, only active values.

docs/packed_file.md describes the format. This module reads and writes arrays
and a config; `EnsembleModel` knows what they mean.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import typing
import zipfile
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_freetickets import packed_values
from keras_freetickets.files import atomic_path
from keras_freetickets.files import integers_as
from keras_freetickets.types import PathLike

Record = dict[str, typing.Any]

FORMAT = "keras_freetickets.compact"
VERSION = 4
# Files of version 1 have no gaps and no scales, those of version 2 hold all
# variables, and those of version 3 have no scales of compressed kernels.
_READ = (1, 2, 3, 4)
ENDING = ".npz"
_SEAL_LENGTH = 64  # hexadecimal digits of SHA-256
# Bytes of an entry besides its data: headers of the archive and the array.
_ENTRY_OVERHEAD = 256


@dataclasses.dataclass
class Stack:
    """The values of one variable in all members.

    Attributes:
        path: String, the path of the variable.
        values: Array `(members, ...)`.
        mask: Index of the stack that is true where this one may differ from
            zero, or `None`.
        follows: Whether the values follow from those of other stacks, so that
            they are not stored.
        pointers: Index of the stack that says where the values of each output
            unit begin, if these are those of a compressed kernel, or `None`.
    """

    path: str
    values: np.ndarray
    mask: int | None = None
    follows: bool = False
    pointers: int | None = None


def write(
    path: PathLike,
    ensemble: dict[str, typing.Any],
    stacks: Sequence[Stack],
    dtype: str | None = None,
) -> None:
    """Writes a config and stacks to one file, atomically.

    Args:
        path: Path that ends with ".npz".
        ensemble: Dict that JSON can hold.
        stacks: List of `Stack`.
        dtype: `"float16"` to round wider floats; `"int8"` to round those of
            arrays with two axes or more besides the members', and of
            compressed kernels, to 8 bits, and others to float16 if that keeps
            three digits; or `None` (default).

    Raises:
        ValueError: If the path has another ending, or `dtype` is something
            else or too small for a value.
    """
    _check_path(path)
    _check_dtype(dtype)
    entries: dict[str, np.ndarray] = {}
    variables: list[Record] = []
    for i, stack in enumerate(stacks):
        if stack.follows:
            variables.append({**_described(stack), "follows": True})
            continue
        mask = None if stack.mask is None else stacks[stack.mask].values
        pointers = stack.pointers
        values, scales = _rounded(
            stack, dtype, None if pointers is None else stacks[pointers].values
        )
        bits, found = _encoded(values, mask)
        record = _described(stack)
        if bits is not None:
            owner = stack.mask if bits is mask else i
            kind, places = _places(bits)
            record[kind] = f"{kind}_{owner:04d}"
            entries[record[kind]] = places
        if scales is not None:
            record["scales"] = f"scales_{i:04d}"
            entries[record["scales"]] = scales
            if pointers is not None:
                record["pointers"] = pointers
        if found is not None and bits is None and not _nonzero(found).any():
            record["zeros"] = True  # without the overhead of an entry
        elif found is not None:
            record["values"] = f"values_{i:04d}"
            entries[record["values"]] = _storable(found)
        variables.append(record)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "ensemble": ensemble,
        "variables": variables,
    }
    text = json.dumps(config).encode()
    entries = {"config": np.frombuffer(text, "uint8"), **entries}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_sealed(entries))


def _described(stack: Stack) -> Record:
    """What a file says of a variable, without its arrays."""
    return {
        "path": stack.path,
        "shape": list(stack.values.shape[1:]),
        "dtype": stack.values.dtype.name,
    }


def _check_path(path: typing.Any) -> None:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).endswith(
        ENDING
    ):
        raise ValueError(
            f"`path` must be a path that ends with '{ENDING}': the file is an "
            f"archive of NumPy arrays. Received: path={path}"
        )


def _check_dtype(dtype: str | None) -> None:
    if dtype not in (None, "float16", "int8"):
        raise ValueError(
            "`dtype` must be None, for values as they are, 'float16' or "
            f"'int8'. Received: dtype={dtype!r}"
        )


def _rounded(
    stack: Stack, dtype: str | None, pointers: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values as they are to be stored, and the scales of integers."""
    values = stack.values
    if dtype == "float16":
        return packed_values.halved(values, stack.path), None
    is_float = values.dtype.kind == "f" or values.dtype.isbuiltin != 1
    if dtype == "int8" and is_float and values.size:
        if values.ndim > 2 or pointers is not None:
            return packed_values.in_8_bits(values, stack.path, pointers)
        return packed_values.halved_if_close(values), None
    return values, None


def _places(bits: np.ndarray) -> tuple[str, np.ndarray]:
    """How to store which bits are set: the kind of entry, and the entry."""
    if np.count_nonzero(bits) < packed_values.DENSEST_GAPS * bits.size:
        return "gaps", packed_values.gaps_of(bits)
    return "bits", np.packbits(bits)


def _encoded(
    values: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The bits and the values to store for an array; `None` for neither."""
    if values.dtype == bool:
        return values, None
    nonzero = _nonzero(values)
    if mask is not None and not np.any(nonzero & ~mask):
        return mask, values[mask]
    active = np.count_nonzero(nonzero)
    saved = (values.size - active) * values.dtype.itemsize
    if saved > values.size / 8 + _ENTRY_OVERHEAD:
        return nonzero, values[nonzero]
    return None, values


def _nonzero(values: np.ndarray) -> np.ndarray:
    """Marks values of which any bit is set, as it is of -0.0."""
    octets = np.ascontiguousarray(values).view("uint8")
    bits = octets.reshape(*values.shape, values.dtype.itemsize)
    return np.asarray(bits.any(axis=-1))


def _storable(values: np.ndarray) -> np.ndarray:
    """Values, those of bfloat16 as integers: NumPy would pickle them."""
    if values.dtype.isbuiltin == 1:
        return values
    return values.view(f"uint{8 * values.dtype.itemsize}")


def _sealed(entries: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an archive that ends with a checksum of all bytes before.

    The checksum is the archive's comment, which readers of archives skip.
    """
    buffer = io.BytesIO()
    named: dict[str, typing.Any] = dict(entries)
    np.savez_compressed(buffer, **named)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = bytes(_SEAL_LENGTH)
    body = buffer.getvalue()[:-_SEAL_LENGTH]
    return body + hashlib.sha256(body).hexdigest().encode()


def read(path: PathLike) -> tuple[dict[str, typing.Any], list[Record]]:
    """Reads what `write` wrote.

    Args:
        path: Path of a file.

    Returns:
        Tuple of the dict `ensemble` and a list of records, to be `decoded`.

    Raises:
        Exception: If the file is damaged or of another kind; of any class.
    """
    # Reading a pipe would wait for a writer.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        data = file.read()
    body, seal = data[:-_SEAL_LENGTH], data[-_SEAL_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise ValueError("it is truncated, altered or another kind of file")
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        config = json.loads(archive["config"].tobytes())
        if config["format"] != FORMAT:
            raise ValueError(f"it is of the format '{config['format']}'")
        if config["version"] not in _READ:
            raise ValueError(
                f"it has version {config['version']} of the format, and this "
                f"release reads {', '.join(map(str, _READ))}"
            )
        records = [_with_arrays(r, archive) for r in config["variables"]]
    for record in records:
        if "pointers" in record:
            found = records[record["pointers"]]
            members = config["ensemble"]["num_members"]
            like = np.empty((members, *found["shape"]), found["dtype"])
            record["pointers"] = _decoded(found, like)
    return config["ensemble"], records


def _with_arrays(record: Record, archive: Mapping[str, np.ndarray]) -> Record:
    """A record with arrays in place of the names of their entries."""
    kinds = ("bits", "gaps", "values", "scales")
    named = {key: record[key] for key in kinds if key in record}
    return {**record, **{key: archive[name] for key, name in named.items()}}


def decoded(
    records: Sequence[Record], likes: Sequence[np.ndarray]
) -> list[np.ndarray | None]:
    """The arrays that records describe.

    Args:
        records: List as `read` returns it.
        likes: List of arrays of the expected shapes and dtypes.

    Returns:
        List of arrays; `None` for those that follow from others.

    Raises:
        ValueError: If the arrays have the wrong shape or dtype.
    """
    if len(records) != len(likes):
        raise ValueError(
            f"it holds {len(records)} variables for a model of {len(likes)}"
        )
    return [
        None if record.get("follows") is True else _decoded(record, like)
        for record, like in zip(records, likes, strict=True)
    ]


def plain_arrays(
    records: Sequence[Record], num_members: int
) -> dict[str, np.ndarray]:
    """The arrays that records describe, for NumPy alone.

    Args:
        records: List as `read` returns it.
        num_members: Positive integer.

    Returns:
        Dict from the path of each variable to its array `(members, ...)`, of
        the variable's dtype, or float32 for bfloat16. Those that follow from
        others are left out.

    Raises:
        ValueError: If records do not agree with their shapes.
    """
    found = {}
    for record in records:
        if record.get("follows") is True:
            continue
        shape = (num_members, *record["shape"])
        stored, dtype = record.get("values"), record["dtype"]
        if dtype == "bfloat16":
            is_bits = stored is not None and stored.dtype == "uint16"
            like = np.empty(shape, "uint16" if is_bits else "float32")
            array = _decoded(record, like)
            if is_bits:  # the upper half of a float32
                array = (array.astype("uint32") << 16).view("float32")
        else:
            array = _decoded(record, np.empty(shape, dtype))
        found[record["path"]] = array
    return found


def _decoded(record: Record, like: np.ndarray) -> np.ndarray:
    if record.get("zeros") is True and tuple(record["shape"]) == like.shape[1:]:
        return np.zeros_like(like)
    bits, values = _bits(record, like.shape), record.get("values")
    if values is None:
        array = bits
    elif bits is None:
        array = _restored(record, values, like)
    else:
        if values.shape != (np.count_nonzero(bits),):
            raise ValueError(f"variable '{record['path']}' has other bits set")
        array = np.zeros(like.shape, values.dtype)
        array[bits] = values
        array = _restored(record, array, like)
    fits = array is not None and array.shape == like.shape
    if array is None or not fits or array.dtype != like.dtype:
        raise ValueError(
            f"variable '{record['path']}' has another shape or dtype than its "
            f"model's, which are {like.shape} and {like.dtype}"
        )
    return array


def _bits(record: Record, shape: tuple[int, ...]) -> np.ndarray | None:
    """Which values are stored, `None` for all."""
    size = math.prod(shape)
    if "gaps" in record:
        try:
            return packed_values.bits_of(record["gaps"], size).reshape(shape)
        except ValueError as error:
            raise ValueError(
                f"variable '{record['path']}' has other places: {error}"
            ) from error
    if "bits" not in record:
        return None
    if record["bits"].shape != (math.ceil(size / 8),):
        raise ValueError(f"variable '{record['path']}' has not {size} bits")
    bits = np.unpackbits(record["bits"], count=size)
    return bits.astype(bool).reshape(shape)


def _restored(
    record: Record, values: np.ndarray, like: np.ndarray
) -> np.ndarray:
    """Stored values in the dtype of the variable."""
    if "scales" not in record:
        return _cast(values, like.dtype)
    if values.dtype != "int8" or values.shape != like.shape:
        raise ValueError(f"variable '{record['path']}' has other integers")
    try:
        found = packed_values.from_8_bits(
            values, record["scales"], record.get("pointers")
        )
    except ValueError as error:
        raise ValueError(f"variable '{record['path']}': {error}") from error
    return found.astype(like.dtype)


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Stored values in the dtype of the variable."""
    if dtype.isbuiltin != 1 and values.dtype == f"uint{8 * dtype.itemsize}":
        return values.view(dtype)
    if values.dtype.kind == dtype.kind == "f":
        return values.astype(dtype)
    return integers_as(values, dtype)
