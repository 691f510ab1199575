"""`DropAndGrow` with the methods of the family, by their names."""

from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.topology import methods


class RigL(DropAndGrow):
    """`DropAndGrow` with RigL: drop by magnitude, grow by gradient.

    Args:
        update_interval: Optimizer updates between topology updates. Defaults
            to 100 (RigL's flag).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.3 (RigL's
            flag).
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

    def __init__(
        self,
        update_interval=100,
        drop_fraction=0.3,
        *,
        track_ever_active=False,
        **kwargs,
    ):
        method = methods.RigL(update_interval, drop_fraction, **kwargs)
        super().__init__(method, track_ever_active)


class SET(DropAndGrow):
    """`DropAndGrow` with SET: drop by magnitude, grow at random.

    Args:
        update_interval: Optimizer updates between topology updates. Defaults
            to 1500 (ITOP, batches of 128).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.3 (SET's
            code).
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

    def __init__(
        self,
        update_interval=1500,
        drop_fraction=0.3,
        *,
        track_ever_active=False,
        **kwargs,
    ):
        method = methods.SET(update_interval, drop_fraction, **kwargs)
        super().__init__(method, track_ever_active)


class ITOP(DropAndGrow):
    """`DropAndGrow` with ITOP: rare updates that go on to the end.

    Args:
        total_steps: Positive integer, optimizer updates of the training.
        growth: `"random"` (default) or `"gradient"`.
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

    def __init__(
        self,
        total_steps,
        growth="random",
        *,
        track_ever_active=False,
        **kwargs,
    ):
        method = methods.ITOP(total_steps, growth, **kwargs)
        super().__init__(method, track_ever_active)


class SNFS(DropAndGrow):
    """`DropAndGrow` with SNFS: growth by momentum, across layers.

    Args:
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

    def __init__(self, *, track_ever_active=False, **kwargs):
        method = methods.SNFS(**kwargs)
        super().__init__(method, track_ever_active)


class DSTEE(DropAndGrow):
    """`DropAndGrow` with DST-EE: growth that also explores.

    Args:
        exploration: Non-negative float, the weight of the bonus. Defaults to
            1e-3 (could not be verified).
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

    def __init__(self, exploration=1e-3, *, track_ever_active=False, **kwargs):
        method = methods.DSTEE(exploration, **kwargs)
        super().__init__(method, track_ever_active)


class GMP(DropAndGrow):
    """`DropAndGrow` with gradual magnitude pruning of a dense network.

    Args:
        final_sparsity: Float in [0, 1).
        end_step: Positive integer, the optimizer update of the last pruning.
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

    def __init__(
        self, final_sparsity, end_step, *, track_ever_active=False, **kwargs
    ):
        method = methods.GMP(final_sparsity, end_step, **kwargs)
        super().__init__(method, track_ever_active)


class GraNet(DropAndGrow):
    """`DropAndGrow` with GraNet: pruning that regrows at every step.

    Args:
        final_sparsity: Float in [0, 1).
        end_step: Positive integer, the optimizer update of the last pruning.
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

    def __init__(
        self, final_sparsity, end_step, *, track_ever_active=False, **kwargs
    ):
        method = methods.GraNet(final_sparsity, end_step, **kwargs)
        super().__init__(method, track_ever_active)


class NDSNN(DropAndGrow):
    """`DropAndGrow` with NDSNN: from sparse to sparser.

    Args:
        final_sparsity: Float in [0, 1).
        end_step: Positive integer, the optimizer update with the last step.
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

    def __init__(
        self, final_sparsity, end_step, *, track_ever_active=False, **kwargs
    ):
        method = methods.NDSNN(final_sparsity, end_step, **kwargs)
        super().__init__(method, track_ever_active)


class NM(DropAndGrow):
    """`DropAndGrow` with masks that keep `n` of every `m` consecutive weights.

    Args:
        n: Positive integer, how many of a group are active.
        m: Integer greater than `n`, the size of a group.
        axis: Integer, the kernel's axis along which groups lie. Defaults to
            -2, the inputs.
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

    def __init__(self, n, m, axis=-2, *, track_ever_active=False, **kwargs):
        method = methods.NM(n, m, axis, **kwargs)
        super().__init__(method, track_ever_active)


class SRigL(DropAndGrow):
    """`DropAndGrow` with SRigL: the same fan-in for every unit.

    Args:
        ablation: Float in [0, 1), the share of the fan-in below which a unit
            is removed; 0 for none. Defaults to 0.3 (SRigL's code).
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

    def __init__(self, ablation=0.3, *, track_ever_active=False, **kwargs):
        method = methods.SRigL(ablation, **kwargs)
        super().__init__(method, track_ever_active)
