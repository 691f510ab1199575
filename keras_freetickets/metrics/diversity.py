"""How much, and in what, the members of an ensemble differ.

The functions work on tensors `(examples, members, classes)`, as a model would
return them, and give one number for each example; the metrics are their means.
`EnsembleModel.predict_members` has the members first: the argument
`members_axis=0` says so.
"""

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.metrics import inputs


def _read(members, members_axis, least=1):
    """Checked float32 probabilities `(examples, members, classes)`."""
    if members_axis not in (0, 1):
        raise ValueError(
            "`members_axis` must be 0 or 1. "
            f"Received: members_axis={members_axis!r}"
        )
    members = ops.convert_to_tensor(members)
    if len(members.shape) == 3 and members_axis == 0:
        members = ops.swapaxes(members, 0, 1)
    members = inputs.read_predictions(members, from_logits=False, members=True)
    if members.shape[1] < least:
        raise ValueError(
            f"`members` must be {least} or more to be compared. "
            f"Received: {members.shape[1]} on axis {members_axis}"
        )
    return members


def _plogp(probabilities):
    """`p log p`, 0 for 0."""
    floor = ops.where(probabilities > 0, probabilities, 1.0)
    return probabilities * ops.log(floor)


def _votes(members):
    """How many members choose each class, `(examples, classes)`."""
    chosen = ops.argmax(members, axis=-1)
    return ops.sum(ops.one_hot(chosen, members.shape[-1]), axis=1)


def predictive_entropy(members, members_axis=1):
    """Entropy of the mean of the members' probabilities: all uncertainty.

    Args:
        members: Probabilities `(examples, members, classes)`.
        members_axis: 1, or 0 for `(members, examples, classes)`.

    Returns:
        Tensor `(examples,)`, in nats, in [0, log(classes)].

    Raises:
        ValueError: If the shape is another or rows do not sum to one.

    Example:

    >>> entropy = predictive_entropy([[[1.0, 0.0], [0.0, 1.0]]])  # log 2
    >>> round(float(entropy[0]), 4)
    0.6931
    """
    members = _read(members, members_axis)
    return -ops.sum(_plogp(ops.mean(members, axis=1)), axis=-1)


def expected_entropy(members, members_axis=1):
    """Mean of the members' entropies: the uncertainty each one sees.

    Args:
        members: Probabilities `(examples, members, classes)`.
        members_axis: 1, or 0 for `(members, examples, classes)`.

    Returns:
        Tensor `(examples,)`, in nats, in [0, log(classes)].

    Raises:
        ValueError: If the shape is another or rows do not sum to one.

    Example:

    >>> entropy = expected_entropy([[[1.0, 0.0], [0.5, 0.5]]])  # log 2 / 2
    >>> round(float(entropy[0]), 4)
    0.3466
    """
    members = _read(members, members_axis)
    return -ops.mean(ops.sum(_plogp(members), axis=-1), axis=1)


def mutual_information(members, members_axis=1):
    """Predictive less expected entropy: what the members differ in.

    Args:
        members: Probabilities `(examples, members, classes)`.
        members_axis: 1, or 0 for `(members, examples, classes)`.

    Returns:
        Tensor `(examples,)`, in nats, in [0, log(members)].

    Raises:
        ValueError: If the shape is another or rows do not sum to one.

    Example:

    >>> information = mutual_information([[[1.0, 0.0], [0.0, 1.0]]])  # log 2
    >>> round(float(information[0]), 4)
    0.6931

    Reference:
        Depeweg et al., 2018, arXiv:1710.07283.
    """
    members = _read(members, members_axis)
    total = predictive_entropy(members)
    # Rounding may leave it below zero where members agree.
    return ops.maximum(total - expected_entropy(members), 0.0)


def variation_ratio(members, members_axis=1):
    """Share of members that do not choose the class most members choose.

    Args:
        members: Probabilities `(examples, members, classes)`.
        members_axis: 1, or 0 for `(members, examples, classes)`.

    Returns:
        Tensor `(examples,)`, in [0, 1 - 1 / members].

    Raises:
        ValueError: If the shape is another or rows do not sum to one.

    Example:

    >>> ratio = variation_ratio([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]])
    >>> round(float(ratio[0]), 4)
    0.3333
    """
    members = _read(members, members_axis)
    most = ops.max(_votes(members), axis=-1)
    return inputs.keep_nan(1.0 - most / members.shape[1], members)


def disagreement(members, members_axis=1):
    """Share of the pairs of members that choose different classes.

    Args:
        members: Probabilities `(examples, members, classes)`, two members or
            more.
        members_axis: 1, or 0 for `(members, examples, classes)`.

    Returns:
        Tensor `(examples,)`, in [0, 1].

    Raises:
        ValueError: If there is one member, the shape is another or rows do not
            sum to one.

    Example:

    >>> share = disagreement([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]])
    >>> round(float(share[0]), 4)  # 2 of 3 pairs
    0.6667
    """
    members = _read(members, members_axis, least=2)
    count = members.shape[1]
    # 2 members on one class and 1 on another: 2 * 2 + 1 * 1 - 3 = 2 ordered
    # pairs agree, of 3 * 2.
    agreeing = ops.sum(ops.square(_votes(members)), axis=-1) - count
    return inputs.keep_nan(1.0 - agreeing / (count * (count - 1)), members)


def pairwise_kl(members, members_axis=1):
    """Mean Kullback-Leibler divergence of ordered pairs of members.

    Args:
        members: Probabilities `(examples, members, classes)`, two members or
            more. Those below 1e-7 count as 1e-7 in the logarithm, or the
            divergence would be infinite.
        members_axis: 1, or 0 for `(members, examples, classes)`.

    Returns:
        Tensor `(examples,)`, in nats, not negative.

    Raises:
        ValueError: If there is one member, the shape is another or rows do not
            sum to one.

    Example:

    >>> divergence = pairwise_kl([[[0.5, 0.5], [0.75, 0.25]]])
    >>> round(float(divergence[0]), 4)  # (0.1438 + 0.1308) / 2
    0.1373
    """
    members = _read(members, members_axis, least=2)
    count = members.shape[1]
    logs = ops.log(ops.maximum(members, keras.config.epsilon()))
    # Over all pairs (j, i) of sum_k p_j log p_j - p_j log p_i; where j is i
    # that is zero.
    own = count * ops.sum(members * logs, axis=(1, 2))
    cross = ops.sum(ops.sum(members, axis=1) * ops.sum(logs, axis=1), axis=-1)
    return ops.maximum(own - cross, 0.0) / (count * (count - 1))


def double_fault(y_true, members, members_axis=1):
    """Share of the pairs of members that are both wrong.

    Args:
        y_true: Labels `(examples,)` or `(examples, 1)`, integers, or one-hot
            `(examples, classes)`.
        members: Probabilities `(examples, members, classes)`, two members or
            more.
        members_axis: 1, or 0 for `(members, examples, classes)`.

    Returns:
        Tensor `(examples,)`, in [0, 1].

    Raises:
        ValueError: If there is one member, the shape is another, rows do not
            sum to one or labels are not classes, more or fewer.

    Example:

    >>> share = double_fault([0], [[[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]])
    >>> round(float(share[0]), 4)
    0.3333

    Reference:
        Giacinto and Roli, 2001, Image and Vision Computing 19(9-10).
    """
    members = _read(members, members_axis, least=2)
    count = members.shape[1]
    labels = inputs.read_labels(y_true, members)
    right = _votes(members) * ops.one_hot(labels, members.shape[-1])
    wrong = count - ops.sum(right, axis=-1)
    share = wrong * (wrong - 1) / (count * (count - 1))
    return inputs.keep_nan(share, members)


def disagreement_matrix(members):
    """Share of the examples on which each two members choose otherwise.

    Args:
        members: Array `(members, examples, classes)`, as
            `EnsembleModel.predict_members` returns it.

    Returns:
        Array `(members, members)`, symmetric with a diagonal of zeros.

    Raises:
        ValueError: If the array has another rank or no examples.

    Example:

    >>> disagreement_matrix([[[0.9, 0.1]], [[0.2, 0.8]]]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    members = np.asarray(members)
    if members.ndim != 3 or members.shape[1] == 0:
        raise ValueError(
            "`members` must have the shape (members, examples, classes) with "
            f"examples. Received: members of shape {members.shape}"
        )
    chosen = members.argmax(axis=-1)
    return np.mean(chosen[:, None] != chosen[None], axis=-1)


class _MembersMetric(keras.metrics.MeanMetricWrapper):
    """Mean over examples of a function of the members' probabilities."""

    function = None

    def __init__(self, members_axis=1, name=None, dtype=None):
        function = self.function

        def of_members(y_true, y_pred):
            del y_true
            return function(y_pred, members_axis)

        super().__init__(of_members, name=name, dtype=dtype)
        self.members_axis = members_axis

    def get_config(self):
        return {
            "members_axis": self.members_axis,
            "name": self.name,
            "dtype": self.dtype,
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class PredictiveEntropy(_MembersMetric):
    """Mean of `predictive_entropy` over examples, in nats. Exact.

    Args:
        members_axis: 1 for predictions `(batch, members, classes)`, 0 for
            `(members, batch, classes)`.
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    metric = PredictiveEntropy(members_axis=0)
    metric.update_state(y, ensemble.predict_members(x))
    ```
    """

    function = staticmethod(predictive_entropy)

    def __init__(self, members_axis=1, name="predictive_entropy", dtype=None):
        super().__init__(members_axis, name, dtype)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class ExpectedEntropy(_MembersMetric):
    """Mean of `expected_entropy` over examples, in nats. Exact.

    Args:
        members_axis: 1 for predictions `(batch, members, classes)`, 0 for
            `(members, batch, classes)`.
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    metric = ExpectedEntropy(members_axis=0)
    metric.update_state(y, ensemble.predict_members(x))
    ```
    """

    function = staticmethod(expected_entropy)

    def __init__(self, members_axis=1, name="expected_entropy", dtype=None):
        super().__init__(members_axis, name, dtype)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class MutualInformation(_MembersMetric):
    """Mean of `mutual_information` over examples, in nats. Exact.

    Args:
        members_axis: 1 for predictions `(batch, members, classes)`, 0 for
            `(members, batch, classes)`.
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    metric = MutualInformation(members_axis=0)
    metric.update_state(y, ensemble.predict_members(x))
    ```
    """

    function = staticmethod(mutual_information)

    def __init__(self, members_axis=1, name="mutual_information", dtype=None):
        super().__init__(members_axis, name, dtype)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class VariationRatio(_MembersMetric):
    """Mean of `variation_ratio` over examples. Exact.

    Args:
        members_axis: 1 for predictions `(batch, members, classes)`, 0 for
            `(members, batch, classes)`.
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    metric = VariationRatio(members_axis=0)
    metric.update_state(y, ensemble.predict_members(x))
    ```
    """

    function = staticmethod(variation_ratio)

    def __init__(self, members_axis=1, name="variation_ratio", dtype=None):
        super().__init__(members_axis, name, dtype)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Disagreement(_MembersMetric):
    """Mean of `disagreement` over examples. Exact.

    Args:
        members_axis: 1 for predictions `(batch, members, classes)`, 0 for
            `(members, batch, classes)`.
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    metric = Disagreement(members_axis=0)
    metric.update_state(y, ensemble.predict_members(x))
    ```

    Reference:
        d_dis of Liu et al., 2022, arXiv:2106.14568 (whose code adds 0.001 to
        each pair for its plot; not here).
    """

    function = staticmethod(disagreement)

    def __init__(self, members_axis=1, name="disagreement", dtype=None):
        super().__init__(members_axis, name, dtype)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class PairwiseKL(_MembersMetric):
    """Mean of `pairwise_kl` over examples, in nats. Exact.

    Args:
        members_axis: 1 for predictions `(batch, members, classes)`, 0 for
            `(members, batch, classes)`.
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    metric = PairwiseKL(members_axis=0)
    metric.update_state(y, ensemble.predict_members(x))
    ```

    Reference:
        d_KL of Liu et al., 2022, arXiv:2106.14568, for any number of members.
    """

    function = staticmethod(pairwise_kl)

    def __init__(self, members_axis=1, name="pairwise_kl", dtype=None):
        super().__init__(members_axis, name, dtype)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class DoubleFault(keras.metrics.MeanMetricWrapper):
    """Mean of `double_fault` over examples. Exact.

    Args:
        members_axis: 1 for predictions `(batch, members, classes)`, 0 for
            `(members, batch, classes)`.
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    metric = DoubleFault(members_axis=0)
    metric.update_state(y, ensemble.predict_members(x))
    ```
    """

    def __init__(self, members_axis=1, name="double_fault", dtype=None):
        super().__init__(
            double_fault, name=name, dtype=dtype, members_axis=members_axis
        )
        self.members_axis = members_axis
        keras_adapter.set_direction(self, "down")

    def get_config(self):
        return {
            "members_axis": self.members_axis,
            "name": self.name,
            "dtype": self.dtype,
        }
