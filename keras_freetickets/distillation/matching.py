"""Distillation by matching the gradients of distilled and of real images."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.distillation import networks as parts
from keras_freetickets.distillation.augmentation import SharedAugmentation
from keras_freetickets.distillation.augmentation import cutmix
from keras_freetickets.distillation.distilled import DistilledSet
from keras_freetickets.distillation.distilled import check_images
from keras_freetickets.distillation.distilled import read_arrays
from keras_freetickets.distillation.distilled import real_start
from keras_freetickets.distillation.distilled import write_arrays
from keras_freetickets.distillation.matcher import METRICS
from keras_freetickets.distillation.matcher import Matcher
from keras_freetickets.trainers import get_backend
from keras_freetickets.types import Array
from keras_freetickets.types import PathLike

# Distilled examples of a class in a batch, at most (published code).
_MAX_BATCH = 128
_CUTMIX_PROBABILITY = 0.5


@dataclasses.dataclass
class DistillationState:
    """A distilled set as it is made, and what goes on from there.

    The arguments are the attributes.

    Args:
        distilled: A `DistilledSet`.
        velocity: Array of the shape of its images, the momentum.
        losses: List of floats, the mean matching loss of each outer step that
            was made. Networks differ in each, so it falls only roughly.

    Example:

    ```python
    state = matching.distill(bank, x, y, callback=lambda s: s.save("s.npz"))
    state = matching.distill(bank, x, y, state=DistillationState.load("s.npz"))
    ```
    """

    distilled: DistilledSet
    velocity: Array
    losses: list[float]

    @property
    def step(self) -> int:
        """The outer steps that were made."""
        return len(self.losses)

    def save(self, path: PathLike) -> None:
        """Writes a file that is complete or missing.

        Args:
            path: Path that ends in `.npz`.

        Raises:
            ValueError: If `path` ends otherwise.
        """
        write_arrays(
            path,
            images=self.distilled.images,
            labels=self.distilled.labels,
            factor=self.distilled.factor,
            velocity=self.velocity,
            losses=np.array(self.losses, "float64"),
        )

    @classmethod
    def load(cls, path: PathLike) -> "DistillationState":
        """Reads a file that `save` wrote.

        Args:
            path: Path of the file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds something else.
        """
        distilled = DistilledSet.load(path)
        found = read_arrays(path, ("velocity", "losses"))
        return cls(distilled, found["velocity"], found["losses"].tolist())


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientMatching:
    """Distills images whose gradients match those of real images.

    In each of `outer_steps` a network is drawn. In each of `inner_steps` a
    step is made on the images of each class, down the distance between the
    gradients of the loss on real and on distilled images of that class; then
    the network is trained on real images for a while, so that the images fit
    later gradients too. Gradients of kernels are compared, except the last
    layer's: inside the masks if networks are sparse.

    Networks run as in inference, so normalize by
    `GroupNormalization(groups=-1)` and not by batch.

    Args:
        images_per_class: Positive integer. Defaults to 10.
        factor: Positive integer that divides height and width: an image holds
            as many rows and columns of tiles, each an example. Defaults to 2,
            for CIFAR; the published code has 3 for ImageNet.
        outer_steps: Positive integer, the networks that are drawn. Defaults to
            100, the published 20-fold speed-up over 2,000.
        inner_steps: Positive integer, steps on each network. Defaults to 100
            (published code).
        perturbation: Tuple `(low, high)` of positive floats: each drawn
            network moves along two filter-normalized directions by a random
            size in this range. Defaults to (0.01, 0.09) (published code).
            `None` for none.
        metric: `"squared"` (default) or `"absolute"`, the differences that are
            summed; published for CIFAR and for ImageNet.
        learning_rate: Positive float, of the images. Defaults to 0.01
            (published code, CIFAR). The best one depends on the metric, the
            network and the size of images.
        momentum: Float in [0, 1), of the images. Defaults to 0.5 (published
            code).
        batch_size: Positive integer, real images of a class in a step, and
            of all classes in the training of a network. Defaults to 64
            (published code).
        train_examples: Non-negative integer, the real images on which a
            network is trained after each inner step. Defaults to 2,000
            (published code, CIFAR).
        augmentation: A `SharedAugmentation` (default), or `None`.
        input_mask_ratio: Float in [0, 1), the share of the pixels and channels
            of distilled examples that are set to zero, others in each step:
            masked distillation training. Real images are not masked. Defaults
            to 0; the sheets of arXiv:2307.12463 name 0.1 to 0.3, and 0.2 is a
            fair choice (ours).
        mean: Float, or a list with one for each channel. Networks are given
            `(images - mean) / std`. Defaults to 0.
        std: Float, or a list with one for each channel. Defaults to 1.
        seed: Non-negative integer. Defaults to 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    matching = GradientMatching(images_per_class=1, outer_steps=20)
    state = matching.distill(bank, x, y)
    state.distilled.save("distilled.npz")
    ```

    Reference:
        Zhang et al., 2023, arXiv:2212.06152, and their code,
        ncsu-dk-lab/Acc-DD. Masks of inputs: Zhu et al., 2023,
        arXiv:2307.12463, of which no code for distillation was found; the
        form here is ours.
    """

    images_per_class: int = 10
    factor: int = 2
    outer_steps: int = 100
    inner_steps: int = 100
    perturbation: tuple[float, float] | None = (0.01, 0.09)
    metric: str = "squared"
    learning_rate: float = 0.01
    momentum: float = 0.5
    batch_size: int = 64
    train_examples: int = 2000
    augmentation: SharedAugmentation | None = dataclasses.field(
        default_factory=SharedAugmentation
    )
    input_mask_ratio: float = 0.0
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("images_per_class", "factor", "outer_steps"):
            check_count(name, getattr(self, name))
        check_count("inner_steps", self.inner_steps)
        check_count("batch_size", self.batch_size)
        check_count("train_examples", self.train_examples, least=0)
        check_count("seed", self.seed, least=0)
        check_choice("metric", self.metric, METRICS)
        check_number("learning_rate", self.learning_rate, "(0, inf)")
        check_number("momentum", self.momentum, "[0, 1)")
        check_number("input_mask_ratio", self.input_mask_ratio, "[0, 1)")
        if self.perturbation is not None:
            low, high = self.perturbation
            if not 0 < low <= high:
                raise ValueError(
                    "`perturbation` must be two positive numbers, the smaller "
                    f"first. Received: perturbation={self.perturbation}"
                )

    def distill(
        self,
        networks: parts.NetworkBank | parts.FreshNetworks,
        x: Array,
        y: Array,
        callback: Callable[[DistillationState], None] | None = None,
        state: DistillationState | None = None,
    ) -> DistillationState:
        """Makes a distilled set.

        Args:
            networks: A `NetworkBank` or `FreshNetworks`. Its models return
                probabilities or logits `(batch, classes)`.
            x: Array of real images `(examples, height, width, channels)`, in
                [0, 1].
            y: Array of integers `(examples,)`, their classes.
            callback: Function that is called with the state after each outer
                step, to save it or to show progress.
            state: A `DistillationState` to go on from. The result is that of
                a run that was not interrupted. `None` (default) to begin with
                random real images.

        Returns:
            The `DistillationState` at the end.

        Raises:
            ValueError: If the data do not fit together or to the networks, a
                class has fewer examples than images are wanted, or networks
                have one kernel only.
            RuntimeError: On a backend that is neither TensorFlow nor JAX.
        """
        x, y = np.asarray(x, "float32"), np.asarray(y)
        if state is None:
            start = real_start(
                x, y, self.images_per_class, self.factor, self.seed
            )
            state = DistillationState(start, np.zeros_like(start.images), [])
        check_images("x", x, "y", y)
        _check_networks(networks, x, y)
        run = _Run(self, networks.model, x, y, state)
        for step in range(state.step, self.outer_steps):
            generator = np.random.default_rng((self.seed, 1, step))
            network = networks.draw(generator)
            if self.perturbation is not None:
                network = parts.perturbed(
                    network, run.is_kernel, self.perturbation, generator
                )
            state = run.outer_step(network, generator, state)
            if callback is not None:
                callback(state)
        return state


def _check_networks(networks, x, y):
    model = networks.model
    if model is None:
        networks.draw(np.random.default_rng(0))  # says that there are none
    if tuple(model.input_shape[1:]) != x.shape[1:]:
        raise ValueError(
            "`x` must be images of the shape that the networks take, "
            f"{tuple(model.input_shape[1:])}. Received: x of shape {x.shape}"
        )
    classes = int(y.max()) + 1
    if len(model.output_shape) != 2 or model.output_shape[-1] < classes:
        raise ValueError(
            f"Networks must return (batch, classes), of {classes} classes or "
            f"more, as many as `y` has. Received: networks that return "
            f"{model.output_shape}"
        )


class _Run:
    """One distillation: the data, and the compiled parts of a step."""

    def __init__(
        self,
        settings: GradientMatching,
        model: keras.Model,
        x: Array,
        y: Array,
        state: DistillationState,
    ) -> None:
        self.settings = settings
        self.labels = state.distilled.labels
        self.factor = state.distilled.factor
        self.is_kernel = parts.matched_kernels(model)
        mean = np.asarray(settings.mean, "float32")
        self.mean, self.std = mean, np.asarray(settings.std, "float32")
        self.x, self.y = x, y
        self.of_class = [
            np.flatnonzero(y == label) for label in range(int(y.max()) + 1)
        ]
        self.targets = np.eye(model.output_shape[-1], dtype="float32")
        matcher = Matcher(
            model,
            x[:2],
            self.factor,
            settings.metric,
            settings.augmentation,
            mean,
            self.std,
        )
        function = get_backend().function
        self._match = function(matcher.loss_and_gradient)
        self._train = function(matcher.train_step)

    def outer_step(
        self,
        network: parts.Network,
        generator: np.random.Generator,
        state: DistillationState,
    ) -> DistillationState:
        """The steps on one network."""
        settings = self.settings
        network = parts.Network(
            *(
                [
                    None if one is None else ops.convert_to_tensor(one)
                    for one in part
                ]
                for part in (network.values, network.fixed, network.masks)
            )
        )
        velocity = [ops.zeros_like(value) for value in network.values]
        images, moves = state.distilled.images.copy(), state.velocity.copy()
        losses = []
        for step in range(settings.inner_steps):
            for label in range(len(self.of_class)):
                losses.append(
                    self._image_step(network, label, images, moves, generator)
                )
            if step < settings.inner_steps - 1:
                network, velocity = self._trained(network, velocity, generator)
        distilled = DistilledSet(images, self.labels, self.factor)
        loss = float(np.mean(losses)) * len(self.of_class)
        return DistillationState(distilled, moves, [*state.losses, loss])

    def _image_step(self, network, label, images, moves, generator):
        """Changes the images of a class and their momentum in place."""
        settings = self.settings
        own = np.flatnonzero(self.labels == label)
        most = max(1, _MAX_BATCH // self.factor**2)
        if len(own) > most:
            own = generator.choice(own, most, replace=False)
        every = self.of_class[label]
        some = generator.choice(
            every, settings.batch_size, replace=len(every) < settings.batch_size
        )
        shape = self.x.shape[1:]
        change = None
        if settings.augmentation is not None:
            change = settings.augmentation.draw(shape, generator)
        visible = None
        if settings.input_mask_ratio:
            size = len(own) * self.factor**2, *shape
            kept = generator.random(size) >= settings.input_mask_ratio
            visible = kept.astype("float32")
        loss, gradient = self._match(
            network.values,
            network.fixed,
            network.masks,
            images[own],
            self.x[some],
            self.targets[label],
            change,
            visible,
        )
        moves[own] *= settings.momentum
        moves[own] += ops.convert_to_numpy(gradient)
        moved = images[own] - settings.learning_rate * moves[own]
        images[own] = np.clip(moved, 0, 1)
        return float(ops.convert_to_numpy(loss))

    def _trained(self, network, velocity, generator):
        """The network after some steps on real images."""
        size = self.settings.batch_size
        values = network.values
        for _ in range(-(-self.settings.train_examples // size)):
            some = generator.integers(len(self.x), size=size)
            x, targets = self.x[some], self.targets[self.y[some]]
            x = (x - self.mean) / self.std
            if generator.random() < _CUTMIX_PROBABILITY:
                x, targets = cutmix(x, targets, generator)
            values, velocity = self._train(
                values, velocity, network.fixed, network.masks, x, targets
            )
        return parts.Network(values, network.fixed, network.masks), velocity
