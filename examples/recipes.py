"""The methods of sparse training, each with the setting it is run in.

A recipe says how the network is made sparse and which callbacks train it.
Numbers of steps are shares of the run, as in the papers' own settings: RigL
and its kin end their updates after 75 % of it.
"""

import dataclasses
import functools
import math
import typing


@dataclasses.dataclass
class Run:
    """What a recipe needs to know of a run.

    Attributes:
        data: `keras_freetickets.datasets.Datasets`.
        sparsity: Float, at the end of the run.
        epochs: Integer.
        steps: Integer, optimizer updates in all.
        interval: Integer, optimizer updates between topology updates.
        drop_fraction: Float, at the beginning.
        seed: Integer.
    """

    data: typing.Any
    sparsity: float
    epochs: int
    steps: int
    interval: int
    drop_fraction: float
    seed: int

    @property
    def pattern(self):
        """N of M closest to the sparsity, 1 of a power of two."""
        m = round(1.0 / (1.0 - self.sparsity))
        return 1, max(2, 2 ** round(math.log2(m)))

    @property
    def stop(self):
        """The update after which the topology rests."""
        return max(self.steps * 3 // 4, self.interval)

    @property
    def common(self):
        return {"update_interval": self.interval, "seed": self.seed}

    def falling(self):
        """A drop fraction that falls to 0 when the topology comes to rest."""
        from keras_freetickets.topology import schedules

        return schedules.Cosine(self.drop_fraction, self.stop)

    def resting(self):
        """What RigL and its kin have in common."""
        return {
            **self.common,
            "drop_fraction": self.falling(),
            "stop_step": self.stop,
        }


@dataclasses.dataclass
class Recipe:
    """How a method is trained.

    Attributes:
        callbacks: Function from a `Run` to a list of callbacks.
        sparsify: Function from a `Run` to the arguments of `sparsify`.
        unknown_class: Whether the network has an output for the unknown.
        cost: What a training step costs, for the theoretical FLOPs: as in
            `keras_freetickets.metrics.flops.training_flops_per_sample`,
            `"pruning"` (dense weight gradients) or `"agent"`.
        reaches: Function from a `Run` to the sparsity at its end.
        fixed: Flags that the method does not take.
    """

    callbacks: typing.Callable
    sparsify: typing.Callable = lambda run: {"sparsity": run.sparsity}
    unknown_class: bool = False
    cost: str = "rigl"
    reaches: typing.Callable = lambda run: run.sparsity
    fixed: tuple = ()

    @property
    def changes_topology(self):
        return self.cost not in ("dense", "static")

    def cost_of(self, interval):
        """FLOPs of an example from those of the dense and sparse forward."""
        if self.cost == "pruning":
            return lambda dense, sparse: 2.0 * sparse + dense
        if self.cost == "agent":
            # 2 gradients and 1 loss more: 10 forward passes in place of 3.
            return lambda dense, sparse: 10.0 * sparse
        return functools.partial(
            _training_flops, method=self.cost, update_interval=interval
        )


def _training_flops(dense, sparse, method, update_interval):
    from keras_freetickets.metrics import flops

    return flops.training_flops_per_sample(
        dense, sparse, method, update_interval
    )


def _callback(name, **more):
    """A recipe of the callback of this name, as RigL is run."""

    def callbacks(run):
        import keras_freetickets as kft

        return [getattr(kft.callbacks, name)(**run.resting(), **more)]

    return callbacks


def _itop(growth):
    def callbacks(run):
        import keras_freetickets as kft

        return [kft.callbacks.ITOP(run.steps, growth, **run.common)]

    return callbacks


def _snfs(run):
    import keras_freetickets as kft
    from keras_freetickets.topology import schedules

    falling = schedules.Cosine(0.5, run.steps)
    return [kft.callbacks.SNFS(drop_fraction=falling, **run.common)]


def _gmp(run):
    import keras_freetickets as kft

    return [kft.callbacks.GMP(run.sparsity, run.stop, **run.common)]


def _granet(run):
    import keras_freetickets as kft
    from keras_freetickets.topology import schedules

    falling = schedules.Cosine(0.5, run.steps, minimum=0.005)
    return [
        kft.callbacks.GraNet(
            run.sparsity, run.stop, drop_fraction=falling, **run.common
        )
    ]


def _ndsnn(run):
    import keras_freetickets as kft

    return [kft.callbacks.NDSNN(run.sparsity, run.stop, **run.common)]


def _nm(run):
    import keras_freetickets as kft

    return [kft.callbacks.NM(*run.pattern, **run.resting())]


def _nm_masks(run):
    import keras_freetickets as kft

    mask = kft.topology.NMMask(*run.pattern)
    return {
        "sparsity": lambda layer: (
            mask.sparsity if _divides(layer, mask) else None
        ),
        "mask_initializer": mask,
    }


def _divides(layer, mask):
    kernel = getattr(layer, "kernel", None)
    return kernel is not None and kernel.shape[mask.axis] % mask.m == 0


def _fan_in_masks(run):
    import keras_freetickets as kft

    return {
        "sparsity": run.sparsity,
        "mask_initializer": kft.topology.ConstantFanInMask(),
    }


def _agent(run):
    import keras_freetickets as kft

    return [kft.callbacks.AGENT(run.data.train, **run.resting())]


def _cigl(run):
    import keras_freetickets as kft

    begin = run.epochs * 4 // 5
    return [
        kft.callbacks.CigL(
            begin, run.data.train, random_drop=0.1, **run.resting()
        )
    ]


def _moon(run):
    import keras_freetickets as kft

    return [
        kft.callbacks.MOON(
            run.epochs,
            run.data.train,
            voting_epochs=max(1, run.epochs // 5),
            learn_epochs=max(1, run.epochs // 20),
            **run.resting(),
        )
    ]


def _nm_sparsity(run):
    n, m = run.pattern
    return 1.0 - n / m


_DROPS_BY_ITSELF = ("drop_fraction",)
_RESTS = ("drop_fraction", "update_interval")

RECIPES = {
    "dense": Recipe(
        lambda run: [],
        lambda run: {"sparsity": 0.0},
        cost="dense",
        reaches=lambda run: 0.0,
        fixed=(*_RESTS, "sparsity", "distribution"),
    ),
    "static": Recipe(lambda run: [], cost="static", fixed=_RESTS),
    "set": Recipe(_callback("SET"), cost="set"),
    "rigl": Recipe(_callback("RigL")),
    "snfs": Recipe(_snfs, cost="snfs", fixed=_DROPS_BY_ITSELF),
    "itop_set": Recipe(_itop("random"), cost="set", fixed=_DROPS_BY_ITSELF),
    "itop_rigl": Recipe(_itop("gradient"), fixed=_DROPS_BY_ITSELF),
    "gmp": Recipe(
        _gmp,
        lambda run: {"sparsity": 0.0},
        cost="pruning",
        fixed=_DROPS_BY_ITSELF,
    ),
    "granet": Recipe(
        _granet,
        lambda run: {"sparsity": min(0.5, run.sparsity)},
        fixed=_DROPS_BY_ITSELF,
    ),
    "nm": Recipe(_nm, _nm_masks, reaches=_nm_sparsity, fixed=("distribution",)),
    "srigl": Recipe(_callback("SRigL"), _fan_in_masks),
    "dst_ee": Recipe(_callback("DSTEE")),
    "agent": Recipe(_agent, cost="agent"),
    "cigl": Recipe(_cigl),
    "moon": Recipe(_moon, unknown_class=True),
    "ndsnn": Recipe(
        _ndsnn,
        lambda run: {"sparsity": min(0.8, run.sparsity)},
        fixed=_DROPS_BY_ITSELF,
    ),
}
