"""Methods that train one sparse network, with the settings of their papers.

Each setting depends on how long the training is: most methods stop updating
the topology after 75 % of it, and let their drop fraction fall until then.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable

import keras

from keras_freetickets import callbacks
from keras_freetickets.arguments import check_count
from keras_freetickets.callbacks.cost import TrainingCost
from keras_freetickets.metrics import flops
from keras_freetickets.models.conversion import check_sparsity
from keras_freetickets.topology import ConstantFanInMask
from keras_freetickets.topology import NMMask
from keras_freetickets.topology import schedules

_Callbacks = list[keras.callbacks.Callback]
# What an automatic interval is a share of, and its limit (FreeTickets').
_UPDATES = 40
_LONGEST_INTERVAL = 1000


@dataclasses.dataclass
class SparseTraining:
    """How to train one sparse network: what `sparse_training` returns.

    The arguments are the attributes.

    Args:
        method: String, the name of the method.
        sparsity: Float in [0, 1), the sparsity at the end of the training;
            methods of fixed patterns (`"nm"`) take the nearest they have.
        sparsify_arguments: Dict for `keras_freetickets.sparsify`.
        callbacks: List of callbacks for one `fit`: `TrainingCost` and those
            of the method.
        update_interval: Positive integer, optimizer updates between topology
            updates.
        changes_topology: Whether the method ever changes a mask.
        extra_outputs: Integer, outputs that the network needs besides one for
            each class: 1 for MOON's class of the unknown, else 0.
        unused: Tuple of the names of arguments of `sparse_training` that the
            method takes no notice of.

    Example:

    ```python
    training = keras_freetickets.recipes.sparse_training("set", 0.9, 10, 390)
    training.callbacks  # [TrainingCost, SET]
    ```
    """

    method: str
    sparsity: float
    sparsify_arguments: dict[str, typing.Any]
    callbacks: _Callbacks
    update_interval: int
    changes_topology: bool
    extra_outputs: int
    unused: tuple[str, ...]


@dataclasses.dataclass
class _Run:
    """The length of a training, and what is the same for all methods."""

    sparsity: float
    epochs: int
    steps: int
    update_interval: int
    drop_fraction: float
    seed: int
    given_data: typing.Any

    @property
    def stop_step(self) -> int:
        """The update after which the topology no longer changes."""
        return max(self.steps * 3 // 4, self.update_interval)

    @property
    def pattern(self) -> tuple[int, int]:
        """N of M closest to the sparsity: 1 of a power of two."""
        m = round(1.0 / (1.0 - self.sparsity))
        return 1, max(2, 2 ** round(math.log2(m)))

    @property
    def common(self) -> dict[str, typing.Any]:
        return {"update_interval": self.update_interval, "seed": self.seed}

    @property
    def as_rigl(self) -> dict[str, typing.Any]:
        """A cosine that reaches 0 at the last update, after 75 %."""
        fraction = schedules.Cosine(self.drop_fraction, self.stop_step)
        return {
            **self.common,
            "drop_fraction": fraction,
            "stop_step": self.stop_step,
        }

    @property
    def data(self) -> typing.Any:
        if self.given_data is None:
            raise ValueError(
                "`data` must be given for methods that look at training data "
                "besides the batches of a step: agent, cigl and moon. "
                "Received: data=None"
            )
        return self.given_data


def _preset(name: str, **more: typing.Any) -> Callable[[_Run], _Callbacks]:
    """The callback of this name, with RigL's schedule."""
    return lambda run: [getattr(callbacks, name)(**run.as_rigl, **more)]


def _itop(growth: str) -> Callable[[_Run], _Callbacks]:
    return lambda run: [callbacks.ITOP(run.steps, growth, **run.common)]


def _snfs(run: _Run) -> _Callbacks:
    falling = schedules.Cosine(0.5, run.steps)
    return [callbacks.SNFS(drop_fraction=falling, **run.common)]


def _gmp(run: _Run) -> _Callbacks:
    return [callbacks.GMP(run.sparsity, run.stop_step, **run.common)]


def _granet(run: _Run) -> _Callbacks:
    falling = schedules.Cosine(0.5, run.steps, minimum=0.005)
    return [
        callbacks.GraNet(
            run.sparsity, run.stop_step, drop_fraction=falling, **run.common
        )
    ]


def _ndsnn(run: _Run) -> _Callbacks:
    return [callbacks.NDSNN(run.sparsity, run.stop_step, **run.common)]


def _nm(run: _Run) -> _Callbacks:
    return [callbacks.NM(*run.pattern, **run.as_rigl)]


def _agent(run: _Run) -> _Callbacks:
    return [callbacks.AGENT(run.data, **run.as_rigl)]


def _cigl(run: _Run) -> _Callbacks:
    start = run.epochs * 4 // 5
    return [callbacks.CigL(start, run.data, random_drop=0.1, **run.as_rigl)]


def _moon(run: _Run) -> _Callbacks:
    return [
        callbacks.MOON(
            run.epochs,
            run.data,
            voting_epochs=max(1, run.epochs // 5),
            learn_epochs=max(1, run.epochs // 20),
            **run.as_rigl,
        )
    ]


def _nm_masks(run: _Run) -> dict[str, typing.Any]:
    mask = NMMask(*run.pattern)

    def sparsity(layer: keras.layers.Layer) -> float | None:
        kernel = getattr(layer, "kernel", None)
        fits = kernel is not None and kernel.shape[mask.axis] % mask.m == 0
        return mask.sparsity if fits else None

    return {"sparsity": sparsity, "mask_initializer": mask}


def _fan_in_masks(run: _Run) -> dict[str, typing.Any]:
    return {"sparsity": run.sparsity, "mask_initializer": ConstantFanInMask()}


def _starts_at_most(sparsity: float) -> Callable[[_Run], dict[str, float]]:
    return lambda run: {"sparsity": min(sparsity, run.sparsity)}


def _nm_sparsity(run: _Run) -> float:
    n, m = run.pattern
    return 1.0 - n / m


def _pruning_flops(dense: float, sparse: float) -> float:
    """Dense weight gradients, all else sparse."""
    return 2.0 * sparse + dense


def _agent_flops(dense: float, sparse: float) -> float:
    """2 gradients and 1 loss more: 10 forward passes in place of 3."""
    return 10.0 * sparse


@dataclasses.dataclass
class _Setting:
    """How a method is trained.

    `cost` is a function from the FLOPs of the dense and the sparse forward
    pass, or the name of a method of `flops.training_flops_per_sample`.
    """

    callbacks: Callable[[_Run], _Callbacks]
    sparsify: Callable[[_Run], dict[str, typing.Any]] = lambda run: {
        "sparsity": run.sparsity
    }
    cost: str | Callable[[float, float], float] = "rigl"
    reaches: Callable[[_Run], float] = lambda run: run.sparsity
    extra_outputs: int = 0
    unused: tuple[str, ...] = ()

    @property
    def changes_topology(self) -> bool:
        return self.cost not in ("dense", "static")

    def training_cost(self, update_interval: int) -> TrainingCost:
        if callable(self.cost):
            return TrainingCost(self.cost)
        return TrainingCost(
            functools.partial(
                flops.training_flops_per_sample,
                method=self.cost,
                update_interval=update_interval,
            )
        )


_OWN_FRACTION = ("drop_fraction",)
_FIXED_MASKS = ("drop_fraction", "update_interval")

_SETTINGS = {
    "agent": _Setting(_agent, cost=_agent_flops),
    "cigl": _Setting(_cigl),
    "dense": _Setting(
        lambda run: [],
        _starts_at_most(0.0),
        cost="dense",
        reaches=lambda run: 0.0,
        unused=(*_FIXED_MASKS, "sparsity", "distribution"),
    ),
    "dst_ee": _Setting(_preset("DSTEE")),
    "gmp": _Setting(
        _gmp, _starts_at_most(0.0), cost=_pruning_flops, unused=_OWN_FRACTION
    ),
    "granet": _Setting(_granet, _starts_at_most(0.5), unused=_OWN_FRACTION),
    "itop_rigl": _Setting(_itop("gradient"), unused=_OWN_FRACTION),
    "itop_set": _Setting(_itop("random"), cost="set", unused=_OWN_FRACTION),
    "moon": _Setting(_moon, extra_outputs=1),
    "ndsnn": _Setting(_ndsnn, _starts_at_most(0.8), unused=_OWN_FRACTION),
    "nm": _Setting(
        _nm, _nm_masks, reaches=_nm_sparsity, unused=("distribution",)
    ),
    "rigl": _Setting(_preset("RigL")),
    "set": _Setting(_preset("SET"), cost="set"),
    "snfs": _Setting(_snfs, cost="snfs", unused=_OWN_FRACTION),
    "srigl": _Setting(_preset("SRigL"), _fan_in_masks),
    "static": _Setting(lambda run: [], cost="static", unused=_FIXED_MASKS),
}

SPARSE_TRAININGS = tuple(_SETTINGS)


def sparse_training(
    method: str,
    sparsity: float,
    epochs: int,
    steps_per_epoch: int,
    data: typing.Any = None,
    update_interval: int | None = None,
    drop_fraction: float = 0.3,
    seed: int = 0,
) -> SparseTraining:
    """Settings of a method for a training of this length.

    Args:
        method: `"rigl"`, `"set"`, `"snfs"`, `"itop_rigl"`, `"itop_set"`,
            `"dst_ee"`, `"srigl"`, `"nm"`, `"gmp"`, `"granet"`, `"ndsnn"`,
            `"agent"`, `"cigl"` or `"moon"`; for comparison `"static"`, masks
            that never change, and `"dense"`, no masks.
        sparsity: Float in [0, 1), at the end of the training.
        epochs: Positive integer.
        steps_per_epoch: Positive integer, optimizer updates of an epoch.
        data: Training data, a `tf.data.Dataset` or an iterable of batches, at
            which `"agent"`, `"cigl"` and `"moon"` look besides the step's
            batches. `None` (default) for the other methods.
        update_interval: Positive integer, optimizer updates between topology
            updates. `None` (default) for a 40th of the steps in which the
            topology changes, at most 1000 (VITA-Group/FreeTickets).
        drop_fraction: Float in [0, 1], at the start. Defaults to 0.3
            (google-research/rigl).
        seed: Non-negative integer. Defaults to 0.

    Returns:
        A `SparseTraining`.

    Raises:
        ValueError: If an argument is out of range, or `data` is missing.

    Example:

    ```python
    training = keras_freetickets.recipes.sparse_training(
        "rigl", sparsity=0.9, epochs=25, steps_per_epoch=390
    )
    model = keras_freetickets.sparsify(dense, **training.sparsify_arguments)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=25, callbacks=training.callbacks)
    ```

    Reference:
        docs/methods.md names each method's paper.
    """
    if method not in _SETTINGS:
        raise ValueError(
            f"`method` must be one of {sorted(_SETTINGS)}. "
            f"Received: method={method!r}"
        )
    check_sparsity(sparsity)
    check_count("epochs", epochs)
    check_count("steps_per_epoch", steps_per_epoch)
    steps = epochs * steps_per_epoch
    if update_interval is None:
        changing = steps * 3 // 4
        update_interval = min(max(changing // _UPDATES, 1), _LONGEST_INTERVAL)
    check_count("update_interval", update_interval)
    setting = _SETTINGS[method]
    run = _Run(
        sparsity, epochs, steps, update_interval, drop_fraction, seed, data
    )
    return SparseTraining(
        method,
        setting.reaches(run),
        setting.sparsify(run),
        [setting.training_cost(update_interval), *setting.callbacks(run)],
        update_interval,
        setting.changes_topology,
        setting.extra_outputs,
        setting.unused,
    )
