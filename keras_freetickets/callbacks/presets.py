"""`DropAndGrow` with the methods of the family, by their names."""

from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.topology import methods


def _attach(method, *args, track_ever_active=False, **kwargs):
    method = method(*args, **kwargs)
    return DropAndGrow(method, track_ever_active=track_ever_active)


def ITOP(total_steps, growth="random", **kwargs):
    """`DropAndGrow` with ITOP: rare updates that go on to the end.

    Args:
        total_steps: Positive integer, optimizer updates of the training.
        growth: `"random"` (default) or `"gradient"`.
        **kwargs: As for `keras_freetickets.topology.ITOP`, and
            `track_ever_active`.

    Example:

    ```python
    model.fit(train, epochs=250, callbacks=[ITOP(total_steps=88_000)])
    ```

    Reference:
        Liu et al., 2021, arXiv:2102.02887.
    """
    return _attach(methods.ITOP, total_steps, growth, **kwargs)


def SNFS(**kwargs):
    """`DropAndGrow` with SNFS: growth by momentum, across layers.

    Args:
        **kwargs: As for `keras_freetickets.topology.SNFS`, and
            `track_ever_active`.

    Example:

    ```python
    model.fit(train, callbacks=[SNFS(update_interval=352)])
    ```

    Reference:
        Dettmers & Zettlemoyer, 2019, arXiv:1907.04840.
    """
    return _attach(methods.SNFS, **kwargs)


def DSTEE(exploration=1e-3, **kwargs):
    """`DropAndGrow` with DST-EE: growth that also explores.

    Args:
        exploration: Non-negative float, the weight of the bonus. Defaults to
            1e-3 (could not be verified).
        **kwargs: As for `keras_freetickets.topology.DSTEE`, and
            `track_ever_active`.

    Example:

    ```python
    model.fit(train, callbacks=[DSTEE(exploration=1e-3)])
    ```

    Reference:
        Huang et al., 2023, arXiv:2211.16667.
    """
    return _attach(methods.DSTEE, exploration, **kwargs)


def GMP(final_sparsity, end, **kwargs):
    """`DropAndGrow` with gradual magnitude pruning of a dense network.

    Args:
        final_sparsity: Float in [0, 1).
        end: Positive integer, the optimizer update of the last pruning.
        **kwargs: As for `keras_freetickets.topology.GMP`, and
            `track_ever_active`.

    Example:

    ```python
    model = keras_freetickets.sparsify(dense_model, sparsity=0.0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(train, callbacks=[GMP(0.9, end=20_000)])
    ```

    Reference:
        Zhu & Gupta, 2017, arXiv:1710.01878.
    """
    return _attach(methods.GMP, final_sparsity, end, **kwargs)


def GraNet(final_sparsity, end, **kwargs):
    """`DropAndGrow` with GraNet: pruning that regrows at every step.

    Args:
        final_sparsity: Float in [0, 1).
        end: Positive integer, the optimizer update of the last pruning.
        **kwargs: As for `keras_freetickets.topology.GraNet`, and
            `track_ever_active`.

    Example:

    ```python
    model = keras_freetickets.sparsify(dense_model, sparsity=0.5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(train, callbacks=[GraNet(0.9, end=20_000)])
    ```

    Reference:
        Liu et al., 2021, arXiv:2106.10404.
    """
    return _attach(methods.GraNet, final_sparsity, end, **kwargs)


def NDSNN(final_sparsity, end, **kwargs):
    """`DropAndGrow` with NDSNN: from sparse to sparser.

    Args:
        final_sparsity: Float in [0, 1).
        end: Positive integer, the optimizer update with the last step.
        **kwargs: As for `keras_freetickets.topology.NDSNN`, and
            `track_ever_active`.

    Example:

    ```python
    model.fit(train, callbacks=[NDSNN(0.98, end=75_000)])
    ```

    Reference:
        Huang et al., 2023, arXiv:2304.12214.
    """
    return _attach(methods.NDSNN, final_sparsity, end, **kwargs)


def NM(n, m, axis=-2, **kwargs):
    """`DropAndGrow` with masks that keep `n` of every `m` consecutive weights.

    Args:
        n: Positive integer, how many of a group are active.
        m: Integer greater than `n`, the size of a group.
        axis: Integer, the kernel's axis along which groups lie. Defaults to
            -2, the inputs.
        **kwargs: As for `keras_freetickets.topology.NM`, and
            `track_ever_active`.

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
    return _attach(methods.NM, n, m, axis, **kwargs)


def SRigL(ablation=0.3, **kwargs):
    """`DropAndGrow` with SRigL: the same fan-in for every unit.

    Args:
        ablation: Float in [0, 1), the share of the fan-in below which a unit
            is removed; 0 for none. Defaults to 0.3 (SRigL's code).
        **kwargs: As for `keras_freetickets.topology.SRigL`, and
            `track_ever_active`.

    Example:

    ```python
    mask = keras_freetickets.topology.ConstantFanInMask()
    model = keras_freetickets.sparsify(
        dense_model, 0.9, mask_initializer=mask
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(train, callbacks=[SRigL(stop=75_000)])
    ```

    Reference:
        Lasby et al., 2024, arXiv:2305.02299.
    """
    return _attach(methods.SRigL, ablation, **kwargs)
