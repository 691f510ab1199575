"""Files that are either whole or not there."""

import contextlib
import os
import re
import shutil
import socket
import tempfile

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


def tidy(folder):
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


@contextlib.contextmanager
def atomic_path(path):
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
