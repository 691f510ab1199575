"""`DropAndGrow` with the methods of the family, by their names."""

import typing

from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.topology import methods


class _Preset(DropAndGrow):
    """`DropAndGrow` with the method `forwards_to`, made of its arguments."""

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

    Args:
        *args: As for `keras_freetickets.topology.RigL`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.RigL`.

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

    Args:
        *args: As for `keras_freetickets.topology.SET`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.SET`.

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

    Args:
        *args: As for `keras_freetickets.topology.ITOP`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.ITOP`.

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

    Args:
        *args: As for `keras_freetickets.topology.SNFS`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.SNFS`.

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

    Args:
        *args: As for `keras_freetickets.topology.DSTEE`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.DSTEE`.

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

    Args:
        *args: As for `keras_freetickets.topology.GMP`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.GMP`.

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


class GraNet(_Preset):
    """`DropAndGrow` with GraNet: pruning that regrows at every step.

    Args:
        *args: As for `keras_freetickets.topology.GraNet`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.GraNet`.

    Example:

    ```python
    model = keras_freetickets.sparsify(dense_model, sparsity=0.5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(train, callbacks=[GraNet(0.9, end_step=20_000)])
    ```

    Reference:
        Liu et al., 2021, arXiv:2106.10404.
    """

    forwards_to = methods.GraNet


class NDSNN(_Preset):
    """`DropAndGrow` with NDSNN: from sparse to sparser.

    Args:
        *args: As for `keras_freetickets.topology.NDSNN`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.NDSNN`.

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

    Args:
        *args: As for `keras_freetickets.topology.NM`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.NM`.

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

    Args:
        *args: As for `keras_freetickets.topology.SRigL`.
        track_ever_active: As for `DropAndGrow`.
        **kwargs: As for `keras_freetickets.topology.SRigL`.

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
