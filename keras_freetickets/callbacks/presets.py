"""`DropAndGrow` with the methods of the family, by their names."""

import typing

from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.topology import methods


class _Preset(DropAndGrow):
    """`DropAndGrow` with the method `forwards_to`.

    The method is made of the arguments that are not `DropAndGrow`'s.
    """

    forwards_to: type[methods.Method] = methods.Method

    def __init__(
        self,
        *args: typing.Any,
        track_ever_active: bool = False,
        **kwargs: typing.Any,
    ) -> None:
        method = self.forwards_to(*args, **kwargs)
        super().__init__(method, track_ever_active)


class RigL(_Preset):
    """`DropAndGrow` with RigL: drop by magnitude, grow by gradient.

    Each update drops the smallest weights and grows the connections that would
    lower the loss most steeply, as many in each layer.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.RigL`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    model.fit(x, y, callbacks=[RigL(update_interval=100, drop_fraction=0.3)])
    ```

    Reference:
        Evci et al., 2020, arXiv:1911.11134.
    """

    forwards_to = methods.RigL


class SET(_Preset):
    """`DropAndGrow` with SET: drop by magnitude, grow at random.

    Each update drops the smallest weights and grows as many connections at
    random, which needs no gradient of absent ones.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.SET`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    model.fit(x, y, callbacks=[SET(update_interval=1500)])
    ```

    Reference:
        Mocanu et al., 2018, arXiv:1707.04780.
    """

    forwards_to = methods.SET


class ITOP(_Preset):
    """`DropAndGrow` with ITOP: rare updates that go on to the end.

    Between updates new connections have time to become large; over the whole
    training most weights are tried.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.ITOP`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    model.fit(train, epochs=250, callbacks=[ITOP(total_steps=88_000)])
    ```

    Reference:
        Liu et al., 2021, arXiv:2102.02887.
    """

    forwards_to = methods.ITOP


class SNFS(_Preset):
    """`DropAndGrow` with SNFS: growth by momentum, across layers.

    Layers whose active weights have a large momentum get more of what all
    layers drop; within a layer the largest momentum grows.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.SNFS`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    model.fit(train, callbacks=[SNFS(update_interval=352)])
    ```

    Reference:
        Dettmers & Zettlemoyer, 2019, arXiv:1907.04840.
    """

    forwards_to = methods.SNFS


class DSTEE(_Preset):
    """`DropAndGrow` with DST-EE: growth that also explores.

    Growth prefers large gradients and connections that were seldom active.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.DSTEE`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    model.fit(train, callbacks=[DSTEE(exploration=1e-3)])
    ```

    Reference:
        Huang et al., 2023, arXiv:2211.16667.
    """

    forwards_to = methods.DSTEE


class GMP(_Preset):
    """`DropAndGrow` with gradual magnitude pruning of a dense network.

    The sparsity rises along a cubic; what is pruned never returns.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.GMP`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    model = keras_freetickets.sparsify(dense_model, sparsity=0.0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(train, callbacks=[GMP(0.9, end_step=20_000)])
    ```

    Reference:
        Zhu & Gupta, 2017, arXiv:1710.01878.
    """

    forwards_to = methods.GMP


class Chase(_Preset):
    """`DropAndGrow` with Chase: whole channels go while the network trains.

    `keras_freetickets.compact` then makes a smaller network without them.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.Chase`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    groups = keras_freetickets.channel_groups(model)
    model.fit(train, callbacks=[Chase(0.5, groups, end_step=20_000)])
    small = keras_freetickets.compact(model)
    ```

    Reference:
        Yin et al., 2023, arXiv:2305.19454.
    """

    forwards_to = methods.Chase


class GraNet(_Preset):
    """`DropAndGrow` with GraNet: pruning that regrows at every step.

    Each update prunes along a cubic, then drops a fraction of what is left and
    grows as many connections by their gradients.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.GraNet`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    granet = GraNet(final_sparsity=0.9, end_step=20_000)
    model.fit(train, callbacks=[granet])  # sparsify(..., sparsity=0.5)
    ```

    Reference:
        Liu et al., 2021, arXiv:2106.10404.
    """

    forwards_to = methods.GraNet


class NDSNN(_Preset):
    """`DropAndGrow` with NDSNN: from sparse to sparser.

    It starts from a sparse model and grows fewer connections than it drops,
    so that training is cheap from the first step on.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.NDSNN`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    model.fit(train, callbacks=[NDSNN(0.98, end_step=75_000)])
    ```

    Reference:
        Huang et al., 2023, arXiv:2304.12214.
    """

    forwards_to = methods.NDSNN


class NM(_Preset):
    """`DropAndGrow` with masks that keep `n` of every `m` consecutive weights.

    The smallest weights of a layer are dropped; each group then grows as many
    as it lost.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.NM`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    mask = keras_freetickets.topology.NMMask(2, 4)
    model = keras_freetickets.sparsify(
        dense_model, mask.sparsity, "uniform", mask_initializer=mask
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(train, callbacks=[NM(2, 4, update_interval=100)])
    ```

    Reference:
        sparsimony's NMSRigL has the same shape.
    """

    forwards_to = methods.NM


class SRigL(_Preset):
    """`DropAndGrow` with SRigL: the same fan-in for every unit.

    Units with too few inputs worth keeping are removed, and their connections
    go to the others.

    Args:
        *args, **kwargs: As for `keras_freetickets.topology.SRigL`.
        track_ever_active: As for `DropAndGrow`.

    Example:

    ```python
    mask = keras_freetickets.topology.ConstantFanInMask()
    model = keras_freetickets.sparsify(
        dense_model, 0.9, mask_initializer=mask
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(train, callbacks=[SRigL(stop_step=75_000)])
    ```

    Reference:
        Lasby et al., 2024, arXiv:2305.02299.
    """

    forwards_to = methods.SRigL
