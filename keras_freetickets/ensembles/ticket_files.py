"""Tickets on disk: how they are written, and read to be members."""

import json
import os
import pathlib
import re
import typing
import warnings
import zipfile
from collections.abc import Sequence

import keras

from keras_freetickets.files import atomic_path
from keras_freetickets.files import is_partial
from keras_freetickets.files import read_sealed
from keras_freetickets.files import write_sealed
from keras_freetickets.types import PathLike

INDEX = "tickets.json"
TicketEntry = dict[str, typing.Any]


class TicketStore:
    """Tickets in one directory: a `.keras` file each, and an index of them.

    The index, `tickets.json`, holds an entry for each ticket, a dict of

    - `"file"`: string, name of the `.keras` file within the directory;
    - `"phase"`: string, such as `"refinement_1"`;
    - `"epoch"`: integer, counted from 0, the epoch that was saved;
    - `"monitor"`: string or `None`, the log that chose the epoch;
    - `"value"`: float or `None`, the value of that log,

    and a checksum. Each file appears with one rename, the index last.

    Args:
        directory: Path of a directory.

    Example:

    ```python
    TicketStore("run/tickets").read()  # {"ticket_0.keras": {...}, ...}
    ```
    """

    def __init__(self, directory: PathLike) -> None:
        self.directory = str(directory)

    @property
    def _index(self) -> str:
        return os.path.join(self.directory, INDEX)

    def read(self) -> dict[str, TicketEntry]:
        """Returns the index: a dict from file name to entry.

        Raises:
            ValueError: If the index is damaged, or the file is not an index.
        """
        if not os.path.exists(self._index):
            return {}
        try:
            entries = read_sealed(self._index, {"tickets"})["tickets"]
            return {entry["file"]: entry for entry in entries}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                "`directory` holds an index of tickets that cannot be read; "
                "remove it to start again, or make an ensemble of the .keras "
                f"files. Received: directory={self.directory} ({error})"
            ) from error

    def save(self, model: keras.Model, entry: TicketEntry) -> None:
        """Writes a model as the ticket `entry["file"]`, then the index.

        Args:
            model: A Keras model.
            entry: Dict, as listed above.
        """
        with atomic_path(os.path.join(self.directory, entry["file"])) as path:
            model.save(path)
        self.write({**self.read(), entry["file"]: entry})

    def write(self, entries: dict[str, TicketEntry]) -> None:
        """Writes the index.

        Args:
            entries: Dict from file name to entry, as `read` returns it.
        """
        ordered = [entries[name] for name in sorted(entries)]
        with atomic_path(self._index) as path:
            write_sealed(path, {"tickets": ordered})

    def forget_from(self, epoch: int) -> None:
        """Drops the entries that a resumed run will write again.

        Args:
            epoch: Non-negative integer, the epoch at which the run resumes;
                0 for a new run, which warns if there are tickets.
        """
        entries = self.read()
        known = {n: e for n, e in entries.items() if e["epoch"] < epoch}
        if entries and known != entries:
            self.write(known)
        if entries and epoch == 0:
            warnings.warn(
                f"'{self.directory}' holds the tickets of an earlier run; "
                "they are replaced as this run reaches its own.",
                stacklevel=3,
            )


def models_of(source: keras.Model | PathLike) -> list[keras.Model]:
    """The model itself, or all tickets at a path.

    Args:
        source: A Keras model, or the path of a ticket or of a directory.

    Returns:
        List of Keras models.
    """
    if isinstance(source, keras.Model):
        return [source]
    return [load_ticket(path) for path in ticket_paths(source)]


def ticket_paths(source: PathLike) -> list[str]:
    """The paths of the tickets at a path.

    Args:
        source: Path of a ticket, or of a directory of tickets.

    Returns:
        List of paths of `.keras` files.

    Raises:
        ValueError: If there are no tickets, or the index cannot be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            "`source` must be the path of a ticket or of a directory of "
            f"tickets, or a list of paths. Received: source={source}"
        )
    source = os.fspath(source)
    if os.path.isfile(source):
        return [source]
    index = os.path.join(source, INDEX)
    names = []
    if os.path.exists(index):
        names = _indexed(index)
    elif os.path.isdir(source):
        names = [n for n in os.listdir(source) if n.endswith(".keras")]
    if not names:
        raise ValueError(
            "`source` must be a ticket or a directory of tickets, as the "
            "callbacks EDST and DST and the recipes of "
            "keras_freetickets.recipes write them. "
            f"Received: source={source} ({_why_no_ticket(source)})"
        )
    return [os.path.join(source, n) for n in sorted(names, key=_natural)]


def _why_no_ticket(source: str) -> str:
    if not os.path.exists(source):
        return "the file or directory does not exist"
    if not os.path.isdir(source):
        return "it is neither a file nor a directory"
    if any(is_partial(name) for name in os.listdir(source)):
        return "a run was interrupted before its first ticket was finished"
    return "no ticket is finished there"


def _indexed(index: str) -> list[str]:
    """The file names of an index, which may have been written by hand."""
    try:
        content = read_sealed(index, {"tickets"}, sealed=False)
        names = [entry["file"] for entry in content["tickets"]]
        within = [_is_within(name) for name in names]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            "`source` holds an index of tickets that cannot be read; name "
            "the .keras files instead. Received: "
            f"source={os.path.dirname(index)} ({type(error).__name__}: {error})"
        ) from error
    if not all(within):
        raise ValueError(
            "`source` holds an index of tickets that are not in that "
            f"directory. Received: source={os.path.dirname(index)} with "
            f"tickets {names}"
        )
    return names


def _is_within(name: str) -> bool:
    """Whether the path of a ticket stays within the folder of its index."""
    path = pathlib.PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def write_index(directory: PathLike, paths: Sequence[PathLike]) -> None:
    """Writes an index that lists the tickets of a folder.

    Args:
        directory: Path of a folder.
        paths: List of the paths of `.keras` files in it or below it.
    """
    names = [
        pathlib.Path(os.path.relpath(path, directory)).as_posix()
        for path in paths
    ]
    with atomic_path(os.path.join(directory, INDEX)) as temporary:
        write_sealed(temporary, {"tickets": [{"file": n} for n in names]})


def _natural(name: str) -> list[int | str]:
    """Key that sorts `ticket_2` before `ticket_10`."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def load_ticket(path: PathLike) -> keras.Model:
    """Loads a ticket, not compiled, but with its `loss` if that is known.

    The loss tells what the model returns.

    Args:
        path: Path of a `.keras` file.

    Returns:
        A Keras model.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    try:
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        if not os.path.isfile(path):  # a pipe would be waited for
            raise ValueError("it is not a regular file")
        model = keras.saving.load_model(path, compile=False)
        model.loss = _loss_in(path)
        return model
    except Exception as error:
        raise ValueError(
            f"`source` names a ticket that cannot be read: {path} "
            f"({type(error).__name__}: {error})"
        ) from error


def _loss_in(path: PathLike) -> typing.Any:
    """The loss that a model was saved with, or `None`."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    loss = (config.get("compile_config") or {}).get("loss")
    try:
        return keras.saving.deserialize_keras_object(loss)
    except Exception:  # of a kind that is not registered with Keras
        return None
