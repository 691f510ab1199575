"""Backups of a run that are written completely or not at all."""

import hashlib
import os
import re
import shutil
import typing
import warnings

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.callbacks.claims import SingleWriter
from keras_freetickets.callbacks.claims import claim
from keras_freetickets.callbacks.claims import end_claims
from keras_freetickets.files import atomic_path
from keras_freetickets.files import check_directory
from keras_freetickets.files import integers_as
from keras_freetickets.files import read_sealed
from keras_freetickets.files import write_sealed
from keras_freetickets.types import Array
from keras_freetickets.types import Logs
from keras_freetickets.types import Model
from keras_freetickets.types import PathLike

_NAME = re.compile(r"epoch_(\d{6})$")
_KEPT = 2
# Settings, not state: `EarlyStopping` changes the sign of its `min_delta` at
# its first epoch, also after a restart.
_SETTINGS = {"min_delta"}
_FORMAT = 3
_MANIFEST = {
    "format",
    "epoch",
    "history",
    "stopped",
    "callbacks",
    "arrays",
    "arrays_sha256",
    "keras",
    "backend",
}


def _to_bytes(value: Array) -> Array:
    """Array as raw bytes, for every dtype (NumPy does not have bfloat16)."""
    return np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)


def _described(value: Array) -> list[typing.Any]:
    return [list(value.shape), str(value.dtype)]


def _from_bytes(stored: Array, described: typing.Any) -> Array:
    shape, dtype = described
    dtype = keras.backend.standardize_dtype(dtype)
    return np.frombuffer(stored.tobytes(), np.dtype(dtype)).reshape(shape)


class Backup(keras.callbacks.Callback):
    """Lets a killed run resume from its last finished epoch, bit for bit.

    To resume a run, start the same command again: if there is a backup when
    `fit` begins, it is restored and its epochs are skipped.

    After every epoch the callback writes the weights and masks, the optimizer
    with its learning rate and slots, the state of every random seed and the
    logs so far. They go to a new directory that appears with one rename.

    Put it last in the list of callbacks, so that the other callbacks finish
    an epoch before the backup records it. Pass Keras callbacks that keep
    state between epochs, such as `EarlyStopping` and `ReduceLROnPlateau`, in
    `callbacks`. The order of the data must depend only on the epoch, as in
    `keras_freetickets.datasets`. An unfinished epoch is repeated. A run can
    resume on another backend, with a warning, but then not bit for bit.

    Args:
        directory: Directory of the backups; use a separate one for each run.
        callbacks: List of callbacks of the same `fit` whose state is saved
            and restored: attributes that are numbers, strings or arrays, and
            weights that they hold.

    Attributes:
        history: Dict from the name of a log to its values, with `"epoch"`;
            includes the epochs before a kill.

    Raises:
        ValueError: If the directory is not writable or contains the backup of
            another model, or if the model is not built.

    Example:

    ```python
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=5)
    backup = keras_freetickets.callbacks.Backup("run/backup", [stopping])
    model.fit(x, y, epochs=10, callbacks=[edst, stopping, backup])
    ```
    """

    def __init__(self, directory: PathLike, callbacks: typing.Any = ()) -> None:
        super().__init__()
        _check_callbacks(callbacks)
        check_directory(directory)
        self.directory = str(directory)
        self.callbacks = list(callbacks)
        self.history: dict[str, list[typing.Any]] = {"epoch": []}
        self._begin = 0
        self._writer = SingleWriter()

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        self._writer.check(self)
        claim(self, "restores and writes a backup")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if not self.model.built:
            raise ValueError(
                "The model must be built before a backup can be restored or "
                "written: call it on a batch, or `model.build(input_shape)`. "
                f"Received: model={self.model.name!r}"
            )
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self.history = {"epoch": []}
        for path in reversed(self._backups()):
            if self._restore(path):
                self._tell(path)
                return

    def _tell(self, path: str) -> None:
        if not self.params.get("verbose"):
            return
        left = ""
        if self._begin >= self.params["epochs"]:
            left = "; nothing is left to do"
        done = len(self.history["epoch"])
        print(f"Resumed from '{path}' after {done} epochs{left}.", flush=True)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        # `fit` has read it; the next `fit` starts at its own first epoch.
        keras_adapter.begin_at_epoch(self.model, None)
        self._fill_history()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.history["epoch"].append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(_plain(value))
        self._write(epoch)

    def on_train_end(self, logs: Logs | None = None) -> None:
        super().on_train_end(logs)
        keras_adapter.begin_at_epoch(self.model, None)
        self._fill_history()
        end_claims(self)

    def _fill_history(self) -> None:
        """Adds the epochs before a kill to the history that `fit` returns."""
        history = self.model.history
        before = len(self.history["epoch"]) - len(history.epoch)
        if before <= 0:
            return
        history.epoch[:0] = self.history["epoch"][:before]
        for name, values in self.history.items():
            if name != "epoch":
                held = history.history.setdefault(name, [])
                held[:0] = values[: len(values) - len(held)]

    def delete(self) -> None:
        """Removes the backups. Call it when the run is complete."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _backups(self) -> list[str]:
        names = sorted(n for n in os.listdir(self.directory) if _NAME.match(n))
        return [os.path.join(self.directory, name) for name in names]

    def _variables(self) -> dict[str, typing.Any]:
        """Dict from unique names to all variables that training changes."""
        model, optimizer = self.model, self.model.optimizer
        named = {f"model/{i}": v for i, v in enumerate(model.variables)}
        for i, variable in enumerate(optimizer.variables):
            named[f"optimizer/{i}"] = variable
        for i, state in enumerate(keras_adapter.seed_states(model)):
            named[f"seed/{i}"] = state
        return named

    def _write(self, epoch: int) -> None:
        memories = [_memory(one) for one in _with_parts(self.callbacks)]
        values = {
            name: ops.convert_to_numpy(variable.value)
            for name, variable in self._variables().items()
        }
        for i, (_, weights) in enumerate(memories):
            for name, held in weights.items():
                for j, value in enumerate(_listed(held)):
                    values[f"callback/{i}/{name}/{j}"] = value
        with atomic_path(
            os.path.join(self.directory, f"epoch_{epoch:06d}")
        ) as path:
            os.makedirs(path)
            file = os.path.join(path, "arrays.npz")
            np.savez(file, **{n: _to_bytes(v) for n, v in values.items()})
            manifest = {
                "format": _FORMAT,
                "epoch": epoch,
                "history": self.history,
                "stopped": bool(self.model.stop_training),
                "callbacks": [
                    [scalars, {name: _count(v) for name, v in weights.items()}]
                    for scalars, weights in memories
                ],
                "arrays": {n: _described(v) for n, v in values.items()},
                "arrays_sha256": _digest(file),
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
            }
            write_sealed(os.path.join(path, "manifest.json"), manifest)
        for old in self._backups()[:-_KEPT]:
            shutil.rmtree(old)

    def _restore(self, path: str) -> bool:
        try:
            manifest, arrays = _read(path)
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(
                f"The backup '{path}' is damaged and is skipped: {error}",
                stacklevel=2,
            )
            return False
        variables = self._variables()
        arrays = _in_types_of(variables, arrays)
        # Check everything before assigning anything.
        _check_same(path, variables, arrays)
        self._check_callbacks(path, manifest["callbacks"])
        for name, variable in variables.items():
            variable.assign(arrays[name])
        self._restore_callbacks(manifest["callbacks"], arrays)
        self.history = manifest["history"]
        begin = manifest["epoch"] + 1
        if manifest["stopped"]:
            begin = max(begin, self.params["epochs"])
        self._begin = begin
        keras_adapter.begin_at_epoch(self.model, begin)
        _warn_of_other_backend(path, manifest["backend"])
        return True

    def _check_callbacks(self, path: str, memories: list[typing.Any]) -> None:
        found = len(_with_parts(self.callbacks))
        if len(memories) != found:
            raise ValueError(
                f"`callbacks` must be the {len(memories)} callbacks whose "
                f"state is in '{path}', including the parts of composite "
                f"callbacks. Received: {found} callbacks"
            )

    def _restore_callbacks(
        self, memories: list[typing.Any], arrays: typing.Any
    ) -> None:
        callbacks = _with_parts(self.callbacks)
        for i, (callback, memory) in enumerate(
            zip(callbacks, memories, strict=True)
        ):
            scalars, weights = memory
            vars(callback).update(scalars)
            for name, count in weights.items():
                # Copies: arrays of a file cannot be written to.
                held = [
                    arrays[f"callback/{i}/{name}/{j}"].copy()
                    for j in range(1 if count is None else count)
                ]
                setattr(callback, name, held[0] if count is None else held)


def _check_callbacks(callbacks: typing.Any) -> None:
    kind = keras.callbacks.Callback
    listed = isinstance(callbacks, (list, tuple))
    if not listed or not all(isinstance(one, kind) for one in callbacks):
        raise ValueError(
            "`callbacks` must be a list of the Keras callbacks whose state is "
            f"saved. Received: callbacks={callbacks}"
        )


def _with_parts(callbacks: typing.Any) -> list[typing.Any]:
    """Callbacks, each followed by its parts, recursively."""
    found = []
    for callback in callbacks:
        parts = getattr(callback, "parts", ())
        found += [callback, *_with_parts(parts)]
    return found


def _read(path: str) -> tuple[dict[str, typing.Any], dict[str, Array]]:
    """Manifest and arrays of a backup; raises if they were changed."""
    manifest = read_sealed(os.path.join(path, "manifest.json"), _MANIFEST)
    if manifest["format"] != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT}")
    file = os.path.join(path, "arrays.npz")
    if not os.path.isfile(file) or _digest(file) != manifest["arrays_sha256"]:
        raise ValueError(f"'{file}' is missing or its checksum differs")
    with np.load(file, allow_pickle=False) as stored:
        arrays = {
            name: _from_bytes(stored[name], described)
            for name, described in manifest["arrays"].items()
        }
    return manifest, arrays


def _in_types_of(
    variables: dict[str, typing.Any], arrays: dict[str, Array]
) -> dict[str, Array]:
    """Converts integers (seeds and counts) to this backend's types."""
    typed = dict(arrays)
    for name in variables.keys() & arrays.keys():
        dtype = keras.backend.standardize_dtype(variables[name].dtype)
        typed[name] = integers_as(arrays[name], dtype)
    return typed


def _warn_of_other_backend(path: str, backend: str) -> None:
    if backend != keras.backend.backend():
        warnings.warn(
            f"The backup '{path}' was written on the backend '{backend}'. The "
            "run resumes from it, but not bit for bit.",
            stacklevel=2,
        )


def _memory(
    callback: typing.Any,
) -> tuple[dict[str, typing.Any], dict[str, Array | list[Array]]]:
    """The state of a callback: scalars, and arrays or lists, by name."""
    scalars, weights = {}, {}
    for name, value in vars(callback).items():
        value = value.item() if isinstance(value, np.generic) else value
        if name in _SETTINGS:
            continue
        if value is None or isinstance(value, (bool, int, float, str)):
            scalars[name] = value
        elif isinstance(value, np.ndarray) or _are_arrays(value):
            weights[name] = value
    return scalars, weights


def _are_arrays(value: typing.Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, np.ndarray) for one in value)


def _listed(held: Array | list[Array]) -> list[Array]:
    return held if isinstance(held, list) else [held]


def _count(held: Array | list[Array]) -> int | None:
    """Arrays of a list, or `None` for an array of its own."""
    return len(held) if isinstance(held, list) else None


def _plain(value: typing.Any) -> typing.Any:
    return value.item() if hasattr(value, "item") else value


def _digest(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_same(
    path: str, variables: dict[str, typing.Any], arrays: dict[str, Array]
) -> None:
    stored = {n: v for n, v in arrays.items() if not n.startswith("callback/")}
    for name in {**variables, **stored}:
        mine = variables.get(name)
        if mine is not None:
            mine = _described(ops.convert_to_numpy(mine.value))
        other = stored.get(name)
        if other is not None:
            other = _described(other)
        if mine is None or mine != other:
            raise ValueError(
                f"`directory` contains the backup of another model or "
                f"optimizer: '{path}' has {other} for {name}, but this run "
                f"has {mine}. Received: directory={os.path.dirname(path)}"
            )
