"""The models that evaluate.py compares, and what they predict."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
from absl import flags
from keras import ops

import keras_freetickets as kft
from keras_freetickets import ensembles

FLAGS = flags.FLAGS


@dataclasses.dataclass
class Predictions:
    """Predictions of a model.

    Attributes:
        probabilities: Array `(examples, classes)`.
        members: Array `(members, examples, classes)`, `None` for a single
            model.
        logits: Array `(members or 1, examples, classes)`, `None` if they
            were not asked for or the model has none.
    """

    probabilities: np.ndarray
    members: np.ndarray | None = None
    logits: np.ndarray | None = None


@dataclasses.dataclass
class Network:
    """A model, its name in tables, and the flag that messages name."""

    name: str
    model: Any
    flag: str

    @property
    def is_ensemble(self) -> bool:
        return hasattr(self.model, "predict_members")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        model = getattr(self.model, "model", self.model)  # CalibratedModel
        member = model.member(0) if hasattr(model, "member") else model
        return tuple(member.inputs[0].shape[1:])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the scores of one image."""
        shape = self.model.compute_output_shape((None, *self.input_shape))
        return tuple(shape[1:])

    @functools.cached_property
    def logits_models(self) -> list[keras.Model] | None:
        """The members, or the model itself, without their softmax."""
        parts = [self.model]
        if self.is_ensemble:
            count = self.model.num_members
            parts = [self.model.member(i) for i in range(count)]
        found = [ensembles.logits_model(part) for part in parts]
        return None if None in found else found

    def predict(
        self, images: np.ndarray, with_logits: bool = False
    ) -> Predictions:
        """Predicts; refuses a model whose predictions are not finite."""
        size = FLAGS.batch_size
        if self.is_ensemble:
            members = self.model.predict_members(images, batch_size=size)
            members = ensembles.renormalized(members)
            made = Predictions(members.mean(axis=0), members)
        else:
            values = self.model.predict(images, batch_size=size, verbose=0)
            made = Predictions(self._as_probabilities(values))
        if not np.isfinite(made.probabilities).all():
            raise SystemExit(f"{self.flag} predicts NaN or infinite values")
        if with_logits and self.logits_models:
            logits = [
                one.predict(images, batch_size=size, verbose=0)
                for one in self.logits_models
            ]
            made.logits = np.stack(logits).astype("float32")
        return made

    def _as_probabilities(self, values: np.ndarray) -> np.ndarray:
        from_logits = FLAGS.from_logits
        if getattr(self.model, "returns_probabilities", False):
            from_logits = False
        if from_logits is None:
            try:
                from_logits = ensembles.returns_logits(self.model, values)
            except ValueError as error:
                raise SystemExit(f"{self.flag}: {error}") from error
        if from_logits:
            return ops.convert_to_numpy(ops.softmax(values))
        return ensembles.renormalized(values)


def load(name: str, flag: str, path: str) -> Network:
    """Loads a model; refuses one that does not classify images."""
    flag = f"--{flag}={path}"
    try:
        network = Network(name, keras.saving.load_model(path), flag)
    except Exception as error:
        raise SystemExit(f"{flag} cannot be loaded: {error}") from error
    try:
        shape = network.input_shape
    except (AttributeError, TypeError, ValueError) as error:
        raise SystemExit(
            f"{flag} must be a Functional or Sequential model, an "
            "EnsembleModel or a CalibratedModel, and is a "
            f"{type(network.model).__name__}"
        ) from error
    scores = network.output_shape
    if len(shape) != 3 or len(scores) != 1 or scores == (1,):
        raise SystemExit(
            f"{flag} must map images (height, width, channels) to scores of "
            f"two classes or more, and maps {shape} to {scores}"
        )
    return network


def check_alike(networks: list[Network]) -> None:
    """Refuses models that take images of different shapes."""
    shapes = {network.flag: network.input_shape for network in networks}
    if len(set(shapes.values())) > 1:
        taken = " and ".join(f"{flag} {s}" for flag, s in shapes.items())
        raise SystemExit(
            f"--model and --baseline must take the same images: {taken}"
        )


def calibrated(
    networks: list[Network], data: kft.datasets.Datasets
) -> list[Network]:
    """The networks with the calibrators of --calibration, fitted."""
    if FLAGS.calibration == "none":
        return []
    kind = FLAGS.calibration.removeprefix("masked_")
    masked = kind != FLAGS.calibration
    held_out = data.train if masked else data.validation
    if held_out is None:
        raise SystemExit(
            f"--calibration={FLAGS.calibration} needs validation images: "
            "--validation_fraction must be above 0"
        )
    made = []
    for network in networks:
        name = f"{network.name}, {FLAGS.calibration.replace('_', ' ')}"
        orders = {"pool_first": name}
        if network.is_ensemble:
            orders = {
                order: f"{name}, {order.replace('_', ' ')}"
                for order in ("pool_first", "members_first")
            }
        for order, name in orders.items():
            model = kft.calibration.calibrate(
                network.model,
                held_out,
                None,
                kind,
                order,
                FLAGS.from_logits if not network.is_ensemble else None,
                input_mask_ratio=0.3 if masked else 0.0,
                num_draws=1,
                seed=FLAGS.seed,
            )
            made.append(Network(name, model, network.flag))
    return made
