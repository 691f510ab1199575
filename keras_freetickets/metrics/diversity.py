"""How much the members of an ensemble differ.

The functions take the probabilities of all members, members first, as
`EnsembleModel.predict_members` returns them: `(members, examples, ...,
classes)`, or of binary classifiers `(members, examples, ..., 1)`. They give
one number for each example, or each position; the metrics are their means. A
model that returns its members, as `compile(metrics=...)` meets them, has the
batch first: pass `members_axis=1` for it.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freetickets.metrics import validation
from keras_freetickets.metrics.base import MeanOfRows
from keras_freetickets.metrics.validation import Rows
from keras_freetickets.types import Tensor


def _read(members, members_axis, least=1):
    """Checked float32 probabilities `(members, examples, ..., classes)`."""
    members = validation.members_first(members, members_axis)
    if members.shape[0] < least:
        raise ValueError(
            f"`members` must be {least} or more to be compared. Received: "
            f"{members.shape[0]} on axis {members_axis}"
        )
    return validation.read_predictions(members, from_logits=False, members=True)


def _plogp(probabilities):
    """`p log p`, 0 for 0."""
    floor = ops.where(probabilities > 0, probabilities, 1.0)
    return probabilities * ops.log(floor)


def _votes(members):
    """How many members choose each class, `(examples, classes)`."""
    chosen = ops.argmax(members, axis=-1)
    return ops.sum(ops.one_hot(chosen, members.shape[-1]), axis=0)


def predictive_entropy(members: Tensor, members_axis: int = 0) -> Tensor:
    """Entropy of the mean of the members' probabilities: total uncertainty.

    Args:
        members: Probabilities `(members, examples, ..., classes)`.
        members_axis: Integer, 0 (default), or 1 for
            `(examples, members, ..., classes)`.

    Returns:
        Tensor `(examples, ...)`, in nats, in [0, log(classes)].

    Raises:
        ValueError: If the shape is wrong or rows do not sum to one.

    Example:

    >>> entropy = predictive_entropy([[[1.0, 0.0]], [[0.0, 1.0]]])  # log 2
    >>> round(float(entropy[0]), 4)
    0.6931
    """
    members = _read(members, members_axis)
    return -ops.sum(_plogp(ops.mean(members, axis=0)), axis=-1)


def expected_entropy(members: Tensor, members_axis: int = 0) -> Tensor:
    """Mean of the members' entropies: what each is uncertain about.

    Args:
        members, members_axis: As for `predictive_entropy`.

    Returns:
        Tensor `(examples, ...)`, in nats, in [0, log(classes)].

    Raises:
        ValueError: As for `predictive_entropy`.

    Example:

    >>> entropy = expected_entropy([[[1.0, 0.0]], [[0.5, 0.5]]])  # log 2 / 2
    >>> round(float(entropy[0]), 4)
    0.3466
    """
    members = _read(members, members_axis)
    return -ops.mean(ops.sum(_plogp(members), axis=-1), axis=0)


def mutual_information(members: Tensor, members_axis: int = 0) -> Tensor:
    """Predictive minus expected entropy: uncertainty from disagreement.

    Args:
        members, members_axis: As for `predictive_entropy`.

    Returns:
        Tensor `(examples, ...)`, in nats, in [0, log(members)]: 0 where the
        members predict the same probabilities.

    Raises:
        ValueError: As for `predictive_entropy`.

    Example:

    >>> information = mutual_information([[[1.0, 0.0]], [[0.0, 1.0]]])  # log 2
    >>> round(float(information[0]), 4)
    0.6931

    Reference:
        Depeweg et al., 2018, arXiv:1710.07283.
    """
    members = _read(members, members_axis)
    total = predictive_entropy(members)
    # Rounding may leave it below zero where members agree.
    return ops.maximum(total - expected_entropy(members), 0.0)


def variation_ratio(members: Tensor, members_axis: int = 0) -> Tensor:
    """Share of members that do not choose the class most members choose.

    Args:
        members, members_axis: As for `predictive_entropy`.

    Returns:
        Tensor `(examples, ...)`, in [0, 1 - 1 / members].

    Raises:
        ValueError: As for `predictive_entropy`.

    Example:

    >>> ratio = variation_ratio([[[0.9, 0.1]], [[0.8, 0.2]], [[0.3, 0.7]]])
    >>> round(float(ratio[0]), 4)
    0.3333
    """
    members = _read(members, members_axis)
    most = ops.max(_votes(members), axis=-1)
    return validation.keep_nan(1.0 - most / members.shape[0], members)


def disagreement(members: Tensor, members_axis: int = 0) -> Tensor:
    """Share of the pairs of members that choose different classes.

    Args:
        members: Probabilities `(members, examples, ..., classes)`, two
            members or more.
        members_axis: Integer, 0 (default), or 1 for
            `(examples, members, ..., classes)`.

    Returns:
        Tensor `(examples, ...)`, in [0, 1].

    Raises:
        ValueError: If there is only one member, the shape is wrong or rows do
            not sum to one.

    Example:

    >>> share = disagreement([[[0.9, 0.1]], [[0.8, 0.2]], [[0.3, 0.7]]])
    >>> round(float(share[0]), 4)  # 2 of 3 pairs
    0.6667
    """
    members = _read(members, members_axis, least=2)
    count = members.shape[0]
    # 2 members on one class and 1 on another: 2 * 2 + 1 * 1 - 3 = 2 ordered
    # pairs agree, of 3 * 2.
    agreeing = ops.sum(ops.square(_votes(members)), axis=-1) - count
    return validation.keep_nan(1.0 - agreeing / (count * (count - 1)), members)


def pairwise_kl(members: Tensor, members_axis: int = 0) -> Tensor:
    """Mean Kullback-Leibler divergence of ordered pairs of members.

    Args:
        members: Probabilities `(members, examples, ..., classes)`, two
            members or more. Those below 1e-7 count as 1e-7 in the logarithm,
            or the divergence would be infinite.
        members_axis: As for `predictive_entropy`.

    Returns:
        Tensor `(examples, ...)`, in nats, not negative.

    Raises:
        ValueError: As for `disagreement`.

    Example:

    >>> divergence = pairwise_kl([[[0.5, 0.5]], [[0.75, 0.25]]])
    >>> round(float(divergence[0]), 4)  # (0.1438 + 0.1308) / 2
    0.1373
    """
    members = _read(members, members_axis, least=2)
    count = members.shape[0]
    logs = ops.log(ops.maximum(members, keras.config.epsilon()))
    # Over all pairs (j, i) of sum_k p_j log p_j - p_j log p_i; where j is i
    # that is zero.
    own = count * ops.sum(members * logs, axis=(0, -1))
    cross = ops.sum(ops.sum(members, axis=0) * ops.sum(logs, axis=0), axis=-1)
    return ops.maximum(own - cross, 0.0) / (count * (count - 1))


def double_fault(
    y_true: Tensor, members: Tensor, members_axis: int = 0
) -> Tensor:
    """Share of the pairs of members that are both wrong.

    Args:
        y_true: Labels `(examples, ...)` or `(examples, ..., 1)`, integers, or
            one-hot `(examples, ..., classes)`.
        members, members_axis: As for `disagreement`.

    Returns:
        Tensor `(examples, ...)`, in [0, 1].

    Raises:
        ValueError: As for `disagreement`, and if there is not one label for
            each example, or a label is not a class.

    Example:

    >>> share = double_fault([0], [[[0.9, 0.1]], [[0.2, 0.8]], [[0.3, 0.7]]])
    >>> round(float(share[0]), 4)
    0.3333

    Reference:
        Giacinto and Roli, 2001, Image and Vision Computing 19(9-10).
    """
    # Labels of a single column may be probabilities of class 1.
    one = validation.members_first(members, members_axis)[0]
    members = _read(members, members_axis, least=2)
    count = members.shape[0]
    labels, _, _ = validation.read_labels(y_true, one)
    right = _votes(members) * ops.one_hot(labels, members.shape[-1])
    wrong = count - ops.sum(right, axis=-1)
    share = wrong * (wrong - 1) / (count * (count - 1))
    return validation.keep_nan(share, members)


def disagreement_matrix(members: Tensor) -> np.ndarray:
    """Share of examples on which two members choose different classes.

    Args:
        members: Array `(members, examples, ..., classes)`, or
            `(members, examples, ..., 1)` of class 1, as
            `EnsembleModel.predict_members` returns it.

    Returns:
        Array `(members, members)`, symmetric with a diagonal of zeros.

    Raises:
        ValueError: If the array has the wrong shape or no examples.

    Example:

    >>> disagreement_matrix([[[0.9, 0.1]], [[0.2, 0.8]]]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    members = np.asarray(members)
    if members.ndim < 3 or members.size == 0:
        raise ValueError(
            "`members` must have the shape (members, examples, ..., classes) "
            f"with examples. Received: members of shape {members.shape}"
        )
    members = validation.two_columns(members, from_logits=False, backend=np)
    chosen = members.argmax(axis=-1).reshape(len(members), -1)
    return np.mean(chosen[:, None] != chosen[None], axis=-1)


class _MembersMetric(MeanOfRows):
    """Mean over rows of `function` of the members' probabilities.

    A metric that `needs_labels` hands them to its function first.
    """

    function: Callable[..., Tensor]
    members_axis: int
    needs_labels = False

    def __init__(
        self,
        members_axis: int = 0,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        name = name or self.function.__name__
        super().__init__(False, ignore_class, name, dtype)
        validation.check_members_axis(members_axis)
        self.members_axis = members_axis

    def values(self, rows: Rows) -> Tensor:
        if self.needs_labels:
            return self.function(rows.labels, rows.probabilities)
        return self.function(rows.probabilities)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["from_logits"]
        return {"members_axis": self.members_axis, **config}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class PredictiveEntropy(_MembersMetric):
    """Mean of `predictive_entropy` over examples, in nats. Exact.

    0 if the ensemble is sure of every example, log(classes) if of none.

    Args:
        members_axis: Integer. 0 (default) for predictions
            `(members, examples, ..., classes)`, as `predict_members` returns
            them; 1 for `(batch, members, ..., classes)`, as a compiled model
            does.
        ignore_class: Integer, the label that is not counted, or `None`
            (default).
        name: Name of the metric; `None` (default) for that of the function.
        dtype: Unused; sums are kept in float32.

    Example:

    ```python
    metric = PredictiveEntropy()
    metric.update_state(y, ensemble.predict_members(x))
    ```
    """

    function = staticmethod(predictive_entropy)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ExpectedEntropy(_MembersMetric):
    """Mean of `expected_entropy` over examples, in nats. Exact.

    High where each member by itself is unsure, as on noisy labels.

    Args:
        members_axis, ignore_class, name, dtype: As for `PredictiveEntropy`.

    Example:

    >>> mean = ExpectedEntropy()([0], [[[1.0, 0.0]], [[0.5, 0.5]]])  # log 2 / 2
    >>> round(float(mean), 4)
    0.3466
    """

    function = staticmethod(expected_entropy)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class MutualInformation(_MembersMetric):
    """Mean of `mutual_information` over examples, in nats. Exact.

    High where members are sure but disagree, as on inputs unlike the training
    data; 0 if all predict the same probabilities.

    Args:
        members_axis, ignore_class, name, dtype: As for `PredictiveEntropy`.

    Example:

    ```python
    several.compile(metrics=[MutualInformation(members_axis=1)])
    ```
    """

    function = staticmethod(mutual_information)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class VariationRatio(_MembersMetric):
    """Mean of `variation_ratio` over examples. Exact.

    0 if all members choose the same class for every example.

    Args:
        members_axis, ignore_class, name, dtype: As for `PredictiveEntropy`.

    Example:

    ```python
    metric = VariationRatio(ignore_class=255)
    for x, y in batches:
        metric.update_state(y, ensemble.predict_members(x))
    ```
    """

    function = staticmethod(variation_ratio)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Disagreement(_MembersMetric):
    """Mean of `disagreement` over examples. Exact.

    0 if all members choose alike, 1 if no two of them ever do.

    Args:
        members_axis, ignore_class, name, dtype: As for `PredictiveEntropy`.

    Example:

    >>> float(Disagreement()([0], [[[0.9, 0.1]], [[0.2, 0.8]]]))
    1.0

    Reference:
        d_dis of Liu et al., 2022, arXiv:2106.14568 (whose code adds 0.001 to
        each pair for its plot; not here).
    """

    function = staticmethod(disagreement)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class PairwiseKL(_MembersMetric):
    """Mean of `pairwise_kl` over examples, in nats. Exact.

    0 if all members predict the same probabilities; it has no upper limit but
    that of the logarithm's clipping.

    Args:
        members_axis, ignore_class, name, dtype: As for `PredictiveEntropy`.

    Example:

    ```python
    metric = PairwiseKL()
    metric.update_state(y, ensemble.predict_members(x))
    ```

    Reference:
        d_KL of Liu et al., 2022, arXiv:2106.14568, for any number of members.
    """

    function = staticmethod(pairwise_kl)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class DoubleFault(_MembersMetric):
    """Mean of `double_fault` over examples. Exact.

    The lower the better: an ensemble cannot mend what most members get wrong.

    Args:
        members_axis, ignore_class, name, dtype: As for `PredictiveEntropy`.

    Example:

    >>> members = [[[0.9, 0.1]], [[0.2, 0.8]], [[0.3, 0.7]]]
    >>> share = DoubleFault()([0], members)  # one of three pairs
    >>> round(float(share), 4)
    0.3333
    """

    function = staticmethod(double_fault)
    needs_labels = True
    direction = "down"
