"""Which unlabelled examples an ensemble labels, and what it says of them.

Teachers that were trained on few labels vote on unlabelled examples. Those that
they agree on, and are sure of, become training data for a student. Examples of
no known class are where they disagree.
"""

import dataclasses
import typing

import numpy as np
from keras import ops

from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.metrics import diversity
from keras_freetickets.metrics import validation
from keras_freetickets.types import Array


@dataclasses.dataclass
class LabelSplit:
    """Indices of examples, no two of which are the same.

    The arguments are the attributes.

    Args:
        labelled: Array `(classes * labels_per_class,)`, to train on.
        calibration: Array `(classes * calibration_per_class,)`, for a
            temperature; neither trained on nor pseudo-labelled.
        unlabelled: Array of all others, whose labels are not to be used.

    Example:

    ```python
    split = split_labels(y, labels_per_class=10)
    x_unlabelled = x[split.unlabelled]
    ```
    """

    labelled: Array
    calibration: Array
    unlabelled: Array


def split_labels(
    y: Array,
    labels_per_class: int,
    calibration_per_class: int = 0,
    seed: int = 0,
) -> LabelSplit:
    """Chooses the examples whose labels may be used, at random.

    Args:
        y: Array of integers `(examples,)`, the labels.
        labels_per_class: Positive integer, the labels to train on.
        calibration_per_class: Non-negative integer, further labels that are
            held out. Defaults to 0.
        seed: Non-negative integer. Defaults to 0.

    Returns:
        A `LabelSplit`, each of its arrays in ascending order.

    Raises:
        ValueError: If an argument is out of range, or a class has fewer
            examples than labels are wanted.

    Example:

    ```python
    split = split_labels(y, labels_per_class=10, calibration_per_class=5)
    x_labelled, y_labelled = x[split.labelled], y[split.labelled]
    ```
    """
    y = _checked_labels(y)
    check_count("labels_per_class", labels_per_class)
    check_count("calibration_per_class", calibration_per_class, least=0)
    check_count("seed", seed, least=0)
    wanted = labels_per_class + calibration_per_class
    generator = np.random.default_rng(seed)
    chosen = []
    for label in range(y.max() + 1):
        own = np.flatnonzero(y == label)
        if len(own) < wanted:
            raise ValueError(
                f"`y` must have {wanted} examples of each class or more, "
                f"for labels_per_class={labels_per_class} and "
                f"calibration_per_class={calibration_per_class}. "
                f"Received: y with {len(own)} of class {label}"
            )
        chosen.append(generator.permutation(own)[:wanted])
    labelled = [own[:labels_per_class] for own in chosen]
    calibration = [own[labels_per_class:] for own in chosen]
    taken = np.zeros(len(y), bool)
    taken[np.concatenate(chosen)] = True
    return LabelSplit(
        np.sort(np.concatenate(labelled)),
        np.sort(np.concatenate(calibration)),
        np.flatnonzero(~taken),
    )


def _checked_labels(y: typing.Any) -> Array:
    y = np.asarray(y)
    if y.ndim != 1 or not y.size or y.dtype.kind not in "iu" or y.min() < 0:
        raise ValueError(
            "`y` must hold classes, integers from 0 on, (examples,). "
            f"Received: y of shape {y.shape} and dtype {y.dtype}"
        )
    return y


@dataclasses.dataclass
class Votes:
    """What an ensemble says of each example.

    The arguments are the attributes.

    Args:
        probabilities: Array `(examples, classes)`, the members' mean.
        labels: Array of integers `(examples,)`, the class of the largest mean.
        confidence: Array `(examples,)`, that mean, in [1 / classes, 1].
        agreement: Array `(examples,)`, the share of members that choose the
            label, in [0, 1].
        mutual_information: Array `(examples,)`, in nats, the part of the
            uncertainty that is the members' disagreement; 0 if they are equal.

    Example:

    ```python
    found = votes(ensemble.predict_members(x))
    disputed = np.argsort(found.agreement)[:10]
    ```
    """

    probabilities: Array
    labels: Array
    confidence: Array
    agreement: Array
    mutual_information: Array


def votes(members: Array) -> Votes:
    """Reads the votes of an ensemble's members.

    Args:
        members: Array of probabilities `(members, examples, classes)`, as
            `EnsembleModel.predict_members` returns it.

    Returns:
        A `Votes`.

    Raises:
        ValueError: If `members` are not distributions over two classes or
            more.

    Example:

    >>> # The first example is agreed on, the second is not.
    >>> members = [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]
    >>> found = votes(np.array(members))
    >>> found.agreement.tolist()
    [1.0, 0.5]
    >>> round(float(found.mutual_information[1]), 3)  # log(2)
    0.693
    """
    members = np.asarray(members)
    fits = members.ndim == 3 and members.shape[-1] > 1 and members.size
    if not fits or not validation.is_distribution(members):
        raise ValueError(
            "`members` must be probabilities that sum to one, (members, "
            f"examples, classes). Received: members of shape {members.shape}"
        )
    mean = members.mean(axis=0)
    labels = mean.argmax(axis=-1)
    return Votes(
        mean,
        labels,
        mean.max(axis=-1),
        (members.argmax(axis=-1) == labels).mean(axis=0),
        ops.convert_to_numpy(diversity.mutual_information(members)),
    )


@dataclasses.dataclass
class PseudoLabels:
    """The examples that are trusted, and their targets.

    The arguments are the attributes.

    Args:
        indices: Array of integers `(selected,)`, ascending, the places of the
            examples among those that were voted on.
        targets: Array `(selected, classes)`, float32.
        labels: Array of integers `(selected,)`.
        trusted: Integer, the examples that passed all thresholds, before the
            classes were balanced.
        votes: `Votes` on all examples.

    Example:

    ```python
    chosen = pseudo_labels(ensemble.predict_members(x_unlabelled))
    x, targets = x_unlabelled[chosen.indices], chosen.targets
    ```
    """

    indices: Array
    targets: Array
    labels: Array
    trusted: int
    votes: Votes

    def __len__(self) -> int:
        """How many examples were selected."""
        return len(self.indices)


def pseudo_labels(
    members: Array,
    min_agreement: float = 1.0,
    min_confidence: float = 0.9,
    max_mutual_information: float | None = None,
    balanced: bool = True,
    max_per_class: int | None = None,
    soft: bool = True,
) -> PseudoLabels:
    """Selects the unlabelled examples whose labels can be trusted.

    With one member it is the rule of plain self-training: that member's
    confidence decides.

    Args:
        members: Array of probabilities `(members, examples, classes)`, as
            `EnsembleModel.predict_members` returns it.
        min_agreement: Float in [0, 1], the share of the members that must
            choose the label. Defaults to 1, all of them.
        min_confidence: Float in [0, 1], the least mean probability of the
            label. Defaults to 0.9; with soft targets 0.7 is enough.
        max_mutual_information: Non-negative float, in nats. `None` (default)
            for no such threshold. It is for members that agree too easily, as
            tickets of one run may: see `metrics.disagreement`.
        balanced: Whether a class gets no more examples than the median of the
            classes that have any. Those of the largest confidence stay. No
            example is ever repeated. Defaults to True.
        max_per_class: Positive integer, the most examples of a class. `None`
            (default) for no limit.
        soft: Whether targets are the members' mean (default), or 1 for the
            label and 0 for other classes.

    Returns:
        `PseudoLabels`; none may be selected.

    Raises:
        ValueError: If an argument is out of range, or `members` are not
            distributions.

    Example:

    ```python
    chosen = pseudo_labels(ensemble.predict_members(x_unlabelled))
    x, targets = x_unlabelled[chosen.indices], chosen.targets
    ```

    Reference:
        Ghosh et al., 2021, arXiv:2107.08211, for the ensemble of teachers. Its
        abstract alone was read: thresholds, balance and soft targets are ours.
    """
    check_number("min_agreement", min_agreement)
    check_number("min_confidence", min_confidence)
    if max_mutual_information is not None:
        check_number(
            "max_mutual_information", max_mutual_information, "[0, inf)"
        )
    check_boolean("balanced", balanced)
    check_boolean("soft", soft)
    if max_per_class is not None:
        check_count("max_per_class", max_per_class)
    found = votes(members)
    trusted = (found.agreement >= min_agreement) & (
        found.confidence >= min_confidence
    )
    if max_mutual_information is not None:
        trusted &= found.mutual_information <= max_mutual_information
    passed = np.flatnonzero(trusted)
    limit = _limit(found.labels[passed], balanced, max_per_class)
    indices = _most_confident(found, passed, limit)
    labels = found.labels[indices]
    targets = found.probabilities[indices]
    if not soft:
        targets = np.eye(found.probabilities.shape[-1])[labels]
    return PseudoLabels(
        indices, targets.astype("float32"), labels, len(passed), found
    )


def _limit(
    labels: Array, balanced: bool, max_per_class: int | None
) -> int | None:
    """The most examples that a class may keep, or `None`."""
    limits = [] if max_per_class is None else [max_per_class]
    if balanced and len(labels):
        counts = np.unique(labels, return_counts=True)[1]
        limits.append(int(np.median(counts)))
    return min(limits, default=None)


def _most_confident(found: Votes, passed: Array, limit: int | None) -> Array:
    """Of each class the examples of the largest confidence, in order."""
    if limit is None or not len(passed):
        return passed
    kept = []
    for label in np.unique(found.labels[passed]):
        own = passed[found.labels[passed] == label]
        # Stable, so that of equals the first stay.
        order = np.argsort(-found.confidence[own], kind="stable")
        kept.append(own[order[:limit]])
    return np.sort(np.concatenate(kept))
