"""A backup that is whole or not there."""

import hashlib
import json
import os
import re
import shutil
import warnings

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.files import atomic_path

_NAME = re.compile(r"epoch_(\d{6})$")
_KEPT = 2


def _to_bytes(value):
    """Array as raw bytes, whatever its dtype (bfloat16 has none in NumPy)."""
    return np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)


class Backup(keras.callbacks.Callback):
    """Lets a killed run go on from its last finished epoch, bit for bit.

    After every epoch the weights and masks, the optimizer with its learning
    rate and slots, the state of every random seed and the logs so far are
    written to a new directory that appears with one rename. When `fit` begins
    and there is a backup, it is restored and its epochs are skipped; so start
    the same command again. Comes last in the list of callbacks, so that what
    they write in an epoch is there before the backup says it is over; those
    that set the learning rate must derive it from the epoch's number. Data
    must come in an order that follows from the epoch, as that of
    `keras_freetickets.datasets`. Metrics of a half-finished epoch are lost
    with the epoch.

    Args:
        directory: Where backups go; one for each run.

    Attributes:
        history: Dict from the name of a log to its values, with `"epoch"`;
            the epochs before a kill included.

    Raises:
        ValueError: If the directory cannot be written or holds the backup of
            another model, or if the model is not built.

    Example:

    ```python
    backup = keras_freetickets.callbacks.Backup("run/backup")
    model.fit(x, y, epochs=10, callbacks=[edst, backup])
    ```
    """

    def __init__(self, directory):
        super().__init__()
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise ValueError(
                "`directory` must be a directory that can be written. "
                f"Received: directory={directory} ({error})"
            ) from error
        if not os.access(directory, os.W_OK):
            raise ValueError(
                "`directory` must be a directory that can be written. "
                f"Received: directory={directory}"
            )
        self.directory = str(directory)
        self.history = {"epoch": []}

    def on_train_begin(self, logs=None):
        if not self.model.built:
            raise ValueError(
                "The model must be built before a backup can be restored or "
                "made: call it on a batch, or `model.build(input_shape)`. "
                f"Received: model={self.model.name!r}"
            )
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self.history = {"epoch": []}
        for path in reversed(self._backups()):
            if self._restore(path):
                return

    def on_epoch_begin(self, epoch, logs=None):
        self._fill_history()

    def on_epoch_end(self, epoch, logs=None):
        self.history["epoch"].append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(_plain(value))
        self._write(epoch)

    def on_train_end(self, logs=None):
        self._fill_history()

    def _fill_history(self):
        """Puts the epochs before a kill into what `fit` returns."""
        history = self.model.history
        before = len(self.history["epoch"]) - len(history.epoch)
        if before <= 0:
            return
        history.epoch[:0] = self.history["epoch"][:before]
        for name, values in self.history.items():
            if name != "epoch":
                held = history.history.setdefault(name, [])
                held[:0] = values[: len(values) - len(held)]

    def delete(self):
        """Removes the backups, once the run has nothing more to do."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _backups(self):
        names = sorted(n for n in os.listdir(self.directory) if _NAME.match(n))
        return [os.path.join(self.directory, name) for name in names]

    def _variables(self):
        """Everything that training changes, by a unique name."""
        model, optimizer = self.model, self.model.optimizer
        named = {f"model/{i}": v for i, v in enumerate(model.variables)}
        for i, variable in enumerate(optimizer.variables):
            named[f"optimizer/{i}"] = variable
        for i, state in enumerate(keras_adapter.seed_states(model)):
            named[f"seed/{i}"] = state
        return named

    def _write(self, epoch):
        arrays, entries = {}, {}
        for name, variable in self._variables().items():
            value = ops.convert_to_numpy(variable.value)
            arrays[name] = _to_bytes(value)
            entries[name] = {
                "path": _stable_path(variable.path),
                "shape": list(value.shape),
                "dtype": str(value.dtype),
            }
        with atomic_path(
            os.path.join(self.directory, f"epoch_{epoch:06d}")
        ) as path:
            os.makedirs(path)
            file = os.path.join(path, "arrays.npz")
            np.savez(file, **arrays)
            manifest = {
                "epoch": epoch,
                "history": self.history,
                "variables": entries,
                "sha256": _digest(file),
                "keras": keras.__version__,
            }
            with open(os.path.join(path, "manifest.json"), "w") as stream:
                json.dump(manifest, stream)
        for old in self._backups()[:-_KEPT]:
            shutil.rmtree(old)

    def _restore(self, path):
        try:
            with open(os.path.join(path, "manifest.json")) as stream:
                manifest = json.load(stream)
            file = os.path.join(path, "arrays.npz")
            if _digest(file) != manifest["sha256"]:
                raise ValueError("checksum differs")
            with np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(
                f"The backup '{path}' is damaged and passed over: {error}",
                stacklevel=2,
            )
            return False
        variables = self._variables()
        _check_same(path, variables, manifest["variables"])
        for name, variable in variables.items():
            like = ops.convert_to_numpy(variable.value)
            value = np.frombuffer(arrays[name].tobytes(), like.dtype)
            variable.assign(value.reshape(like.shape))
        self.history = manifest["history"]
        keras_adapter.begin_at_epoch(self.model, manifest["epoch"] + 1)
        return True


def _plain(value):
    return value.item() if hasattr(value, "item") else value


def _stable_path(path):
    """A path without the numbers that Keras counts up within a process."""
    return re.sub(r"_\d+(?=/|$)", "", path)


def _digest(path):
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_same(path, variables, entries):
    for name in {**variables, **entries}:
        entry = entries.get(name)
        mine = variables.get(name)
        if entry is not None and mine is not None:
            value = ops.convert_to_numpy(mine.value)
            if list(value.shape) == entry["shape"]:
                if str(value.dtype) == entry["dtype"]:
                    continue
        described = None if mine is None else (mine.path, tuple(mine.shape))
        raise ValueError(
            f"`directory` holds the backup of another model or optimizer: "
            f"'{path}' has {entry} where this one has {described}. Received: "
            f"directory={os.path.dirname(path)}"
        )
