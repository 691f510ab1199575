"""Files that are written completely or not at all."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_freetickets.types import PathLike

_PREFIX = ".partial-"
_HOLDER = re.compile(r"\.partial-(?P<host>.+)-(?P<pid>\d+)-[^-]*")
_REPLACED = "replaced"


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path):
    if os.path.isdir(path):
        for root, _, names in os.walk(path):
            for name in names:
                _sync(os.path.join(root, name))
            _sync(root)
    else:
        _sync(path)


def _remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


def _holder_prefix():
    return f"{_PREFIX}{socket.gethostname()}-{os.getpid()}-"


def is_partial(name: str) -> bool:
    """Whether a name is that of what `atomic_path` has not finished.

    Args:
        name: Name in a folder that `atomic_path` writes to.

    Example:

    ```python
    any(is_partial(name) for name in os.listdir("run/tickets"))
    ```
    """
    return name.startswith(_PREFIX)


def _is_abandoned(name):
    """Whether the process that made a holder ran here and runs no more."""
    match = _HOLDER.fullmatch(name)
    if match is None or match["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def tidy(folder: PathLike) -> None:
    """Removes what killed processes of this machine left half written.

    A directory that was whole and about to replace another is put in place.

    Args:
        folder: A directory that `atomic_path` writes to.
    """
    for name in filter(_is_abandoned, os.listdir(folder)):
        # Another process may be tidying up as well.
        with contextlib.suppress(FileNotFoundError):
            _finish(folder, os.path.join(folder, name))


def _finish(folder, holder):
    held = set(os.listdir(holder))
    if _REPLACED in held:
        for whole in held - {_REPLACED}:
            target = os.path.join(folder, whole)
            if not os.path.exists(target):
                os.replace(os.path.join(holder, whole), target)
    shutil.rmtree(holder)


def integers_as(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Integers in another integer type; as they are if that cannot hold them.

    Keras holds the state of a seed in `uint32` on JAX, in `int64` on
    TensorFlow and in `int32` on PyTorch, and counts likewise: a file that is
    to be read on another backend goes by the numbers.

    Args:
        values: Array of any type; what holds no integers is left alone.
        dtype: The dtype wanted.
    """
    if values.dtype.kind not in "iu" or np.dtype(dtype).kind not in "iu":
        return values
    cast = values.astype(dtype)
    return cast if np.array_equal(cast, values) else values


def check_directory(directory: PathLike) -> None:
    """Makes a directory; raises unless it can be written."""
    try:
        os.makedirs(directory, exist_ok=True)
    except (OSError, TypeError) as error:
        raise ValueError(
            "`directory` must be a directory that can be written. "
            f"Received: directory={directory} ({error})"
        ) from error
    if not os.access(directory, os.W_OK):
        raise ValueError(
            "`directory` must be a directory that can be written. "
            f"Received: directory={directory}"
        )


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[str]:
    """Yields a temporary path that becomes `path` when the block succeeds.

    A file or a directory may be written there. It is flushed to the disk and
    renamed; a reader sees the old content or the new, never a part. An
    existing file is replaced in one rename. An existing directory takes two:
    killed between them, the new one is put in place by the next write to the
    same folder.

    Args:
        path: The path to write. Its directory is created. The temporary name
            ends as `path` does, since writers look at endings.

    Example:

    ```python
    with atomic_path("run/metrics.json") as temporary:
        with open(temporary, "w") as file:
            json.dump(metrics, file)
    ```
    """
    path = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    tidy(folder)
    holder = tempfile.mkdtemp(prefix=_holder_prefix(), dir=folder)
    temporary = os.path.join(holder, name)
    try:
        yield temporary
        _sync_tree(temporary)
        if os.path.isdir(path):
            os.replace(path, os.path.join(holder, _REPLACED))
        os.replace(temporary, path)
        _sync(folder)
    finally:
        _remove(holder)


_SEAL = "sha256"


def _seal_of(content):
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_sealed(path: PathLike, content: dict[str, Any]) -> None:
    """Writes a dict as JSON with a checksum, so that damage is noticed.

    Args:
        path: File to write, e.g. one that `atomic_path` yields.
        content: Dict that JSON can hold, with strings as keys and without
            the key `"sha256"`.
    """
    with open(path, "w") as file:
        json.dump({**content, _SEAL: _seal_of(content)}, file, indent=2)


def read_sealed(
    path: PathLike, keys: set[str], sealed: bool = True
) -> dict[str, Any]:
    """Reads what `write_sealed` wrote, and nothing else.

    Args:
        path: A regular file; what would wait for a writer is refused.
        keys: Set of the names that the dict holds.
        sealed: Whether the checksum must be there. One that is there must be
            right in any case.

    Returns:
        The dict.

    Raises:
        ValueError: If the file is truncated, altered, or something else.
        OSError: If it is not there or cannot be read.
    """
    # A pipe or a device would be waited for, or read without end.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"'{path}' is not a regular file")
    try:
        with open(path) as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' holds no JSON ({error})") from error
    found = set(content) if isinstance(content, dict) else type(content)
    if found not in ([keys | {_SEAL}] if sealed else [keys, keys | {_SEAL}]):
        raise ValueError(f"'{path}' must hold {sorted(keys)}, sealed")
    seal = content.pop(_SEAL, None)
    if seal is not None and seal != _seal_of(content):
        raise ValueError(f"'{path}' is altered: its checksum differs")
    return content
