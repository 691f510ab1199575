"""Networks whose gradients are matched: fresh ones, or a bank of early ones.

A bank is small; perturbed copies make many networks of it.
"""

import dataclasses
import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_model
from keras_freetickets.layers.kernels import find_kernels
from keras_freetickets.types import Array
from keras_freetickets.types import Logs

# Of filters that are all zero.
_TINY = 1e-10


@dataclasses.dataclass
class Network:
    """The values of a model's variables, apart from the model.

    The arguments are the attributes.

    Args:
        values: List of arrays, those of `model.trainable_variables`.
        fixed: List of arrays, those of `model.non_trainable_variables`.
        masks: List with a boolean array for each of `values`, or `None` where
            all entries are active.

    Example:

    ```python
    network = bank.draw(np.random.default_rng(0))
    [value.shape for value in network.values]
    ```
    """

    values: list[Array]
    fixed: list[Array]
    masks: list[Array | None]


def network_of(model: keras.Model) -> Network:
    """Copies the values of a model's variables."""
    masked = getattr(model, "masked_kernels", [])
    masks = {id(one.kernel): one.mask_array().copy() for one in masked}
    trainable = model.trainable_variables
    return Network(
        [_copied(one) for one in trainable],
        [_copied(one) for one in model.non_trainable_variables],
        [masks.get(id(one)) for one in trainable],
    )


def _copied(variable):
    return np.array(ops.convert_to_numpy(variable.value))


def filter_normalized_direction(
    weights: Sequence[Array],
    seed: typing.Any = 0,
    masks: Sequence[Array | None] | None = None,
    is_kernel: Sequence[bool] | None = None,
) -> list[np.ndarray]:
    """A random direction in which each filter has the norm of the weights'.

    A step of the same length along it changes large and small filters in
    proportion. It is also what pictures of loss surfaces are drawn along.

    Args:
        weights: List of float arrays; the last axis of a kernel is that of its
            filters, as in Keras.
        seed: Integer, or a `numpy.random.Generator`, which moves on.
        masks: List with a boolean array for each weight, outside of which the
            direction is zero, or `None`. `None` (default) for no masks.
        is_kernel: List with a boolean for each weight; the direction of others
            (biases, norms) is zero. `None` (default) for the weights of two
            axes or more.

    Returns:
        List of arrays of the shapes and types of the weights.

    Raises:
        ValueError: If the lists differ in length.

    Example:

    >>> kernel, bias = np.ones((4, 3)), np.ones(3)
    >>> direction = filter_normalized_direction([kernel, bias], seed=0)
    >>> np.linalg.norm(direction[0], axis=0).round(6).tolist()
    [2.0, 2.0, 2.0]
    >>> direction[1].tolist()
    [0.0, 0.0, 0.0]

    Reference:
        Li et al., 2018, arXiv:1712.09913; for distillation Zhang et al.,
        2023, arXiv:2212.06152.
    """
    weights = [np.asarray(one) for one in weights]
    masks = [None] * len(weights) if masks is None else list(masks)
    if is_kernel is None:
        is_kernel = [one.ndim > 1 for one in weights]
    if not len(weights) == len(masks) == len(is_kernel):
        raise ValueError(
            "`masks` and `is_kernel` must have an entry for each weight. "
            f"Received: {len(weights)} weights, {len(masks)} masks and "
            f"{len(is_kernel)} entries of is_kernel"
        )
    generator = np.random.default_rng(seed)
    return [
        _direction(weight, mask, generator) if moves else np.zeros_like(weight)
        for weight, mask, moves in zip(weights, masks, is_kernel, strict=True)
    ]


def _direction(weight, mask, generator):
    direction = generator.standard_normal(weight.shape)
    if mask is not None:
        direction, weight = direction * mask, weight * mask
    axes = tuple(range(weight.ndim - 1))

    def norms(values):
        return np.sqrt(np.sum(np.square(values), axis=axes, keepdims=True))

    scaled = direction * norms(weight) / (norms(direction) + _TINY)
    return scaled.astype(weight.dtype)


def perturbed(
    network: Network,
    is_kernel: Sequence[bool],
    magnitudes: tuple[float, float],
    generator: np.random.Generator,
) -> Network:
    """A network moved along two random directions; the given one stays."""
    values = network.values
    for _ in range(2):
        direction = filter_normalized_direction(
            network.values, generator, network.masks, is_kernel
        )
        size = generator.uniform(*magnitudes) * generator.choice([-1, 1])
        values = [
            value + np.asarray(size, value.dtype) * along
            for value, along in zip(values, direction, strict=True)
        ]
    return Network(values, network.fixed, network.masks)


def matched_kernels(model: keras.Model) -> list[bool]:
    """Which trainable variables are kernels, those of the last layer not."""
    found = [id(place.variable) for place in find_kernels(model)]
    return [id(one) in found[:-1] for one in model.trainable_variables]


class FreshNetworks:
    """New networks for each draw: distillation without a bank.

    Args:
        make_model: Function from an integer seed to a built Keras model, dense
            or sparse.

    Attributes:
        model: Keras model, the first one that was made.

    Raises:
        TypeError: If the function returns something else.

    Example:

    ```python
    networks = FreshNetworks(make_model)
    matching.distill(networks, x, y)
    ```
    """

    def __init__(self, make_model: Callable[[int], keras.Model]) -> None:
        self._make = make_model
        self.model = make_model(0)
        check_model("make_model", self.model)

    def draw(self, generator: np.random.Generator) -> Network:
        """Makes a network.

        Args:
            generator: A `numpy.random.Generator`, which gives the seed.

        Returns:
            A `Network`.
        """
        return network_of(self._make(int(generator.integers(2**31))))


class NetworkBank:
    """A few networks that were trained a little, to draw from.

    Their gradients say more of the classes than those of fresh networks. They
    come from short runs of different seeds, or from the first epochs of one
    sparse run, whose masks differ. A bank copies what it is given and never
    changes.

    Args:
        models: List of Keras models of one architecture. Defaults to none:
            `add` them, or collect them with `collector`.

    Attributes:
        model: Keras model, the first one that was given, or `None`.
        networks: List of `Network`.

    Raises:
        TypeError: If one is not a Keras model.
        ValueError: If the architectures differ, or weights are stored
            compressed.

    Example:

    ```python
    bank = NetworkBank()
    sparse = kft.sparsify(make_model(0), sparsity=0.8, seed=0)
    sparse.compile("adam", "sparse_categorical_crossentropy")
    sparse.fit(
        x,
        y,
        epochs=5,
        callbacks=[kft.callbacks.RigL(), bank.collector()],
    )
    ```

    Reference:
        Zhang et al., 2023, arXiv:2212.06152: five networks of two epochs each
        for CIFAR. One sparse run is ours.
    """

    def __init__(self, models: Sequence[keras.Model] = ()) -> None:
        self.model: typing.Any = None
        self.networks: list[Network] = []
        for model in models:
            self.add(model)

    def __len__(self) -> int:
        return len(self.networks)

    def add(self, model: keras.Model) -> None:
        """Copies the weights and masks that a model has now.

        Args:
            model: Keras model of the architecture of the others.
        """
        check_model("model", model)
        masked = getattr(model, "masked_kernels", [])
        if any(one.compressed for one in masked):
            raise ValueError(
                "`model` must store its kernels with masks: see "
                "`keras_freetickets.decompress`. Received: model with "
                "storage='compressed'"
            )
        network = network_of(model)
        if self.networks:
            known, given = (
                [one.shape for one in n.values]
                for n in (self.networks[0], network)
            )
            if known != given:
                raise ValueError(
                    "`model` must have the architecture of the others, "
                    f"weights of the shapes {known}. Received: model with "
                    f"{given}"
                )
        else:
            self.model = model
        self.networks.append(network)

    def draw(self, generator: np.random.Generator) -> Network:
        """Chooses one of the networks.

        Args:
            generator: A `numpy.random.Generator`, which moves on.

        Returns:
            A `Network`.

        Raises:
            ValueError: If there are none.
        """
        if not self.networks:
            raise ValueError(
                "The bank must hold one network or more before it is used. "
                "Received: a bank of 0 networks"
            )
        return self.networks[generator.integers(len(self.networks))]

    def collector(self, every_epochs: int = 1) -> keras.callbacks.Callback:
        """A callback that adds the trained model after each epoch.

        Args:
            every_epochs: Positive integer; or after every so many epochs.

        Returns:
            A callback for `fit`.

        Raises:
            ValueError: If the argument is out of range.
        """
        check_count("every_epochs", every_epochs)
        return _Collector(self, every_epochs)


class _Collector(keras.callbacks.Callback):
    def __init__(self, bank: NetworkBank, every_epochs: int) -> None:
        super().__init__()
        self._bank, self._every_epochs = bank, every_epochs

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if (epoch + 1) % self._every_epochs == 0:
            self._bank.add(self.model)
