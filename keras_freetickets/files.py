"""Files that are either whole or not there."""

import contextlib
import os
import shutil
import tempfile


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


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path that becomes `path` when the block succeeds.

    A file or a directory may be written there. It is flushed to the disk and
    renamed; a reader sees the old content or the new, never a part. An
    existing file is replaced; so is a directory, but in two renames.

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
    holder = tempfile.mkdtemp(prefix=".partial-", dir=folder)
    temporary = os.path.join(holder, name)
    try:
        yield temporary
        _sync_tree(temporary)
        if os.path.isdir(path):
            os.replace(path, os.path.join(holder, "replaced"))
        os.replace(temporary, path)
        _sync(folder)
    finally:
        _remove(holder)
