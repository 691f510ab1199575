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
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_freetickets.types import PathLike

_PREFIX = ".partial-"
_HOLDER = re.compile(r"\.partial-(?P<host>.+)-(?P<pid>\d+)-[^-]*")
_REPLACED = f"{_PREFIX}replaced"


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
    """Whether a name belongs to an unfinished write of `atomic_path`.

    Args:
        name: Name in a folder that `atomic_path` writes to.

    Example:

    ```python
    any(is_partial(name) for name in os.listdir("run/tickets"))
    ```
    """
    return name.startswith(_PREFIX)


def _is_abandoned(name):
    """Whether a holder's process ran on this host and has ended."""
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
    """Removes unfinished files of killed processes of this machine.

    If a complete directory was about to replace another, moves it in place.

    Args:
        folder: A directory that `atomic_path` writes to.
    """
    for name in filter(_is_abandoned, os.listdir(folder)):
        # Another process may be tidying up as well.
        with contextlib.suppress(FileNotFoundError):
            _finish(folder, os.path.join(folder, name))


def _finish(folder, holder):
    """Completes what a killed process had begun to replace."""
    held = set(os.listdir(holder))
    if _REPLACED in held:
        for whole in held - {_REPLACED}:
            target = os.path.join(folder, whole)
            if not os.path.isdir(target):
                os.replace(os.path.join(holder, whole), target)
    shutil.rmtree(holder)


def _make_directories(folder):
    """Creates a directory; returns those that were not there, inner first."""
    made = []
    while not os.path.isdir(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    for one in reversed(made):
        os.makedirs(one, exist_ok=True)
    return made


def _place(folder, holder, names):
    """Moves all from the holder to the folder; if one fails, none is moved."""
    if len(names) == 1 and not os.path.isdir(os.path.join(folder, names[0])):
        os.replace(*(os.path.join(one, names[0]) for one in (holder, folder)))
        return
    replaced = os.path.join(holder, _REPLACED)
    os.mkdir(replaced)
    with contextlib.ExitStack() as undo:
        for source, target in ((folder, replaced), (holder, folder)):
            for name in names:
                old = os.path.join(source, name)
                new = os.path.join(target, name)
                if os.path.lexists(old):
                    os.replace(old, new)
                    undo.callback(os.replace, new, old)
        undo.pop_all()


def integers_as(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Converts integers to another integer type if it can hold them.

    Keras keeps the state of a seed in `uint32` on JAX, in `int64` on
    TensorFlow and in `int32` on PyTorch, and counters similarly. A file that
    another backend reads must therefore be compared by value.

    Args:
        values: Array of any type; arrays without integers are not changed.
        dtype: The wanted dtype.
    """
    if values.dtype.kind not in "iu" or np.dtype(dtype).kind not in "iu":
        return values
    cast = values.astype(dtype)
    return cast if np.array_equal(cast, values) else values


def check_directory(directory: PathLike) -> None:
    """Creates a directory; raises unless it is writable."""
    try:
        os.makedirs(directory, exist_ok=True)
    except (OSError, TypeError) as error:
        raise ValueError(
            "`directory` must be a writable directory. "
            f"Received: directory={directory} ({error})"
        ) from error
    if not os.access(directory, os.W_OK):
        raise ValueError(
            "`directory` must be a writable directory. "
            f"Received: directory={directory}"
        )


@contextlib.contextmanager
def atomic_path(path: PathLike, beside: Sequence[str] = ()) -> Iterator[str]:
    """Yields a temporary path that becomes `path` when the block succeeds.

    Write a file or a directory there. It is flushed to disk and renamed, so
    a reader sees either the old content or the new. Replacing a file takes
    one rename. Replacing a directory, or several files, takes more; if the
    process is killed between them, the next write to the same folder completes
    the replacement. If the block raises, nothing has changed.

    Args:
        path: The path to write. Its directory is created. The temporary name
            has the same suffix as `path`, because writers check suffixes.
        beside: Sequence of strings, names of files that the block writes into
            the same directory as the temporary path; they come beside `path`.

    Example:

    ```python
    with atomic_path("run/metrics.json") as temporary:
        with open(temporary, "w") as file:
            json.dump(metrics, file)
    ```
    """
    path = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(path)
    names = [*beside, name]
    made = _make_directories(folder)
    tidy(folder)
    holder = tempfile.mkdtemp(prefix=_holder_prefix(), dir=folder)
    try:
        try:
            yield os.path.join(holder, name)
            for one in names:
                _sync_tree(os.path.join(holder, one))
            _place(folder, holder, names)
            _sync(folder)
        finally:
            _remove(holder)
    except BaseException:
        for one in made:
            # Others may have written there since.
            with contextlib.suppress(OSError):
                os.rmdir(one)
        raise


_SEAL = "sha256"


def _seal_of(content):
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_sealed(path: PathLike, content: dict[str, Any]) -> None:
    """Writes a dict as JSON with a checksum, so that damage is detected.

    Args:
        path: File to write, for example one that `atomic_path` yields.
        content: JSON-serializable dict with strings as keys and without the
            key `"sha256"`.
    """
    with open(path, "w") as file:
        json.dump({**content, _SEAL: _seal_of(content)}, file, indent=2)


def read_sealed(
    path: PathLike, keys: set[str], sealed: bool = True
) -> dict[str, Any]:
    """Reads a file that `write_sealed` wrote.

    Args:
        path: A regular file; pipes and devices are refused.
        keys: Set of the keys that the dict must have.
        sealed: Whether the checksum is required. If there is one, it must be
            right in any case.

    Returns:
        The dict.

    Raises:
        ValueError: If the file is truncated, changed, or of another kind.
        OSError: If it does not exist or cannot be read.
    """
    # Reading a pipe or a device could block, or never end.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"'{path}' is not a regular file")
    try:
        with open(path) as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is not valid JSON ({error})") from error
    found = set(content) if isinstance(content, dict) else type(content)
    if found not in ([keys | {_SEAL}] if sealed else [keys, keys | {_SEAL}]):
        raise ValueError(
            f"'{path}' must have the keys {sorted(keys)} and a checksum"
        )
    seal = content.pop(_SEAL, None)
    if seal is not None and seal != _seal_of(content):
        raise ValueError(f"'{path}' was changed: its checksum differs")
    return content
