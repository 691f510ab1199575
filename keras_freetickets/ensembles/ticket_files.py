"""Tickets on disk, read to be members of an ensemble."""

import json
import os
import pathlib
import re
import zipfile

import keras

from keras_freetickets.files import atomic_path
from keras_freetickets.files import is_partial
from keras_freetickets.files import read_sealed
from keras_freetickets.files import write_sealed

INDEX = "tickets.json"


def models_of(source):
    """A model itself, or the models that a path leads to."""
    if isinstance(source, keras.Model):
        return [source]
    return [load_ticket(path) for path in ticket_paths(source)]


def ticket_paths(source):
    """The files that the path of a ticket or of a directory stands for."""
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
            "callbacks EDST and DST and the methods of "
            "keras_freetickets.recipes write them. "
            f"Received: source={source} ({_why_no_ticket(source)})"
        )
    return [os.path.join(source, n) for n in sorted(names, key=_natural)]


def _why_no_ticket(source):
    if not os.path.exists(source):
        return "there is no such file or directory"
    if not os.path.isdir(source):
        return "it is neither a file nor a directory"
    if any(is_partial(name) for name in os.listdir(source)):
        return "a run was interrupted before its first ticket was finished"
    return "no ticket is finished there"


def _indexed(index):
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


def _is_within(name):
    """Whether the path of a ticket stays in the folder of its index."""
    path = pathlib.PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def write_index(directory, paths):
    """Notes in a folder which files within it are the tickets.

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


def _natural(name):
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def load_ticket(path):
    """The model in a file, not compiled; with its `loss`, if that is known.

    It says what the model returns.
    """
    try:
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        if not os.path.isfile(path):  # a pipe would be waited for
            raise ValueError("it is no regular file")
        model = keras.saving.load_model(path, compile=False)
        model.loss = _loss_in(path)
        return model
    except Exception as error:
        raise ValueError(
            f"`source` names a ticket that cannot be read: {path} "
            f"({type(error).__name__}: {error})"
        ) from error


def _loss_in(path):
    """The loss that a model was saved with, or `None`."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    loss = (config.get("compile_config") or {}).get("loss")
    try:
        return keras.saving.deserialize_keras_object(loss)
    except Exception:  # of a kind that is not registered with Keras
        return None
