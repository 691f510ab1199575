"""What a classifier would predict if one training example had been left out.

Influence functions answer without training again: one system of equations with
the Hessian of the loss for each example. Conjugate gradients solve it with
products of the Hessian and vectors, so that the Hessian itself is never formed.
"""

import typing
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_model
from keras_freetickets.arguments import check_number
from keras_freetickets.graphs.conjugate_gradients import conjugate_gradients
from keras_freetickets.graphs.data import check_split
from keras_freetickets.graphs.derivatives import derivatives
from keras_freetickets.metrics.intervals import jackknife_intervals
from keras_freetickets.types import Array
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


class LeaveOneOut:
    """Leave-one-out models of a trained classifier, by influence functions.

    The training loss is J = mean over rows of weight * cross-entropy, plus the
    losses of regularizers, as Keras computes it from `sample_weight`. A row is
    an example, or a node of a graph. Without the term of row k, the minimum
    moves to first order from theta to

        theta_k = theta + (H + damping * I)^-1 gradient_k,

    with H the Hessian of J and gradient_k the gradient of row k's term. Weights
    outside a mask do not move. Where J is convex in `variables`, this is close
    to training again; of a deep network take the last layer's variables.

    Args:
        model: Built Keras model that returns class scores
            `(batch, ..., classes)`.
        x: Inputs in training, `(batch, ...)`; for a graph `features[None]`.
        y: Integer labels `(batch, ...)`, one for each row.
        sample_weight: Non-negative weights of the rows, of the shape of `y`.
            `None` (default) for 1.
        examples: Integer indices of the rows to leave out, counted in
            flattened `y`. `None` (default) for all with a positive weight.
        variables: List of trainable variables of the model that training
            again would change. `None` (default) for all of them.
        from_logits: Whether the model returns logits, the default.
        damping: Non-negative float. Defaults to 0.01, as in
            wulongfeng/CaliRare. It has to exceed the most negative curvature.
        tolerance: Float in (0, 1). The systems are solved until each residual
            is this part of its right side. Defaults to 1e-4, where the error
            of the solution is below that of float32 gradients.
        max_iterations: Positive integer; steps of conjugate gradients. A
            warning says if the tolerance was not reached. Defaults to 500: a
            step each for a few hundred weights.
        block_size: Positive integer; systems solved together. Defaults to 128:
            more need more memory, and were no faster in a trial.

    Attributes:
        changes: Float32 array `(examples, weights)`: theta_k - theta, with the
            variables flattened one after the other.
        examples: Integer array `(examples,)`.
        num_iterations: Integer, the most steps that a block took.

    Raises:
        TypeError: If `model` is not a Keras model, or examples are not
            integers.
        ValueError: If an argument is out of range, shapes disagree, a label is
            none of the model's classes, a gradient is not finite, the model has
            compressed kernels, or the curvature is negative in a direction
            that was visited.
        RuntimeError: On a backend that is neither TensorFlow nor JAX.

    Example:

    ```python
    left_out = LeaveOneOut(
        model, x[None], y[None], sample_weight=weights[None],
        variables=model.layers[-1].trainable_variables,
    )
    intervals = left_out.intervals(coverage=0.9)  # (nodes, 2)
    ```

    Reference:
        Koh and Liang, 2017, arXiv:1703.04730; Wu et al., 2023,
        arXiv:2307.09858.
    """

    def __init__(
        self,
        model: keras.Model,
        x: Tensor,
        y: Array,
        sample_weight: Array | None = None,
        examples: Array | None = None,
        variables: Sequence[Variable] | None = None,
        from_logits: bool = True,
        damping: float = 1e-2,
        tolerance: float = 1e-4,
        max_iterations: int = 500,
        block_size: int = 128,
    ) -> None:
        check_model("model", model)
        check_boolean("from_logits", from_logits)
        check_number("damping", damping, "[0, inf)")
        check_number("tolerance", tolerance, "(0, 1)")
        check_count("max_iterations", max_iterations)
        check_count("block_size", block_size)
        self._x = x
        self._labels = _labels(y)
        self._weights = _weights(y, sample_weight)
        if examples is None:
            examples = np.flatnonzero(self._weights > 0)
        check_split(examples, self._labels.size, "examples")
        self.examples = np.asarray(examples)
        self._block_size = min(block_size, len(self.examples))
        self._network = _Network(model, variables, from_logits)
        rows, self._num_classes = self._network.rows_and_classes(x)
        _check_rows(rows, self._labels)
        used = np.union1d(self.examples, np.flatnonzero(self._weights > 0))
        self._check_class("y", self._labels[used])
        self._compile()
        self.num_iterations = 0
        self.changes = self._solve_all(damping, tolerance, max_iterations)

    def _check_class(self, name, values):
        wrong = np.extract((values < 0) | (values >= self._num_classes), values)
        if wrong.size:
            raise ValueError(
                f"`{name}` must be of the model's classes, 0 to "
                f"{self._num_classes - 1}. Received: {name} with {wrong[0]}"
            )

    def _compile(self):
        labels, weights = self._labels, self._weights
        count = np.float32(len(labels))
        network = self._network

        def terms(theta, x):
            logs, penalty = network.log_probabilities(theta, x)
            picked = ops.one_hot(labels, logs.shape[-1], dtype=logs.dtype)
            losses = -ops.sum(logs * picked, axis=-1)
            return losses * weights / count, penalty

        def some(theta, x, rows):
            return ops.take(terms(theta, x)[0], rows, axis=0)

        def objective(theta, x):
            losses, penalty = terms(theta, x)
            return ops.sum(losses) + penalty

        backend = derivatives()
        self._gradients = backend.jacobian(some)
        self._products = backend.hessian_products(objective)
        self._outputs = backend.mapped(
            lambda theta, x: ops.exp(network.log_probabilities(theta, x)[0])
        )

    def _solve_all(self, damping, tolerance, max_iterations):
        theta, mask = self._network.theta(), self._network.mask()
        found = []
        for block in self._blocks(self.examples):
            gradients = _numpy(self._gradients(theta, self._x, block))
            gradients = gradients.astype("float64") * mask
            if not np.isfinite(gradients).all():
                raise ValueError(
                    "`x` and the model's weights must give finite gradients. "
                    "Received: a gradient with NaN or infinity"
                )

            def product(vectors):
                result = _numpy(
                    self._products(theta, self._x, vectors.astype("float32"))
                )
                return result * mask + damping * vectors

            solved, steps = conjugate_gradients(
                product, gradients, tolerance, max_iterations
            )
            self.num_iterations = max(self.num_iterations, steps)
            found.append(solved)
        changes = np.concatenate(found)[: len(self.examples)]
        return changes.astype("float32")

    def _blocks(self, values):
        """Blocks of one size, so that each function compiles once."""
        size = self._block_size
        for start in range(0, len(values), size):
            yield np.resize(values[start : start + size], size)

    def _block_predictions(self, x):
        """Probabilities of each block of left-out models, `(block, ...)`."""
        theta = self._network.theta()
        for block in self._blocks(np.arange(len(self.changes))):
            yield _numpy(self._outputs(theta + self.changes[block], x))

    def predictions(
        self, x: Tensor | None = None, rows: Array | None = None
    ) -> np.ndarray:
        """What the leave-one-out models predict.

        The model's weights of now are used, with the changes found when this
        object was made.

        Args:
            x: Inputs as in training, or of as many rows. `None` (default) for
                those of training.
            rows: Integer indices of the rows to predict. `None` (default) for
                all.

        Returns:
            Float32 probabilities `(examples, rows, classes)`.

        Raises:
            TypeError: If rows are not integers.
            ValueError: If there are no such rows.
        """
        x = self._x if x is None else x
        if rows is None:
            rows = slice(None)
        else:
            check_split(rows, self._labels.size, "rows")
        parts = [one[:, rows] for one in self._block_predictions(x)]
        return np.concatenate(parts)[: len(self.examples)]

    def residuals(self, rare_class: int = 1) -> np.ndarray:
        """How far each left-out label is from its prediction.

        Args:
            rare_class: Integer, the class whose probability is predicted.

        Returns:
            Float array `(examples,)` in [0, 1]: |1 - p| where the label is
            `rare_class` and p elsewhere, p that of the model without it.

        Raises:
            ValueError: If the model has no such class.
        """
        check_count("rare_class", rare_class, 0)
        self._check_class("rare_class", rare_class)
        own = []
        blocks = self._blocks(self.examples)
        predictions = self._block_predictions(self._x)
        for rows, found in zip(blocks, predictions, strict=True):
            own.append(found[np.arange(len(rows)), rows, rare_class])
        p = np.concatenate(own)[: len(self.examples)]
        return np.abs((self._labels[self.examples] == rare_class) - p)

    def intervals(
        self,
        coverage: float = 0.9,
        rare_class: int = 1,
        x: Tensor | None = None,
        rows: Array | None = None,
    ) -> np.ndarray:
        """Jackknife+ intervals of the probability of the rare class.

        Args:
            coverage: Float in (0, 1). Defaults to 0.9, as in
                wulongfeng/CaliRare.
            rare_class: Integer, the class.
            x, rows: As for `predictions`.

        Returns:
            Float array `(rows, 2)` of lower and upper ends in [0, 1].
        """
        residuals = self.residuals(rare_class)
        predictions = self.predictions(x, rows)[..., rare_class]
        return jackknife_intervals(predictions, residuals, coverage)


def _labels(y):
    labels = np.asarray(y)
    if labels.dtype.kind not in "iub":
        raise ValueError(
            f"`y` must be integer labels. Received: y of dtype {labels.dtype}"
        )
    return labels.astype("int32").ravel()


def _weights(y, sample_weight):
    shape = np.shape(y)
    if sample_weight is None:
        return np.ones(int(np.prod(shape)), "float32")
    weights = np.asarray(sample_weight, "float32")
    if weights.shape != shape or not (weights >= 0).all():
        raise ValueError(
            "`sample_weight` must be non-negative numbers of the shape of `y`, "
            f"{shape}. Received: sample_weight of shape {weights.shape}"
        )
    return weights.ravel()


def _check_rows(rows, labels):
    if rows != labels.size:
        raise ValueError(
            "`y` must have one label for each row that the model returns, "
            f"{rows}. Received: {labels.size} labels"
        )


def _check_differentiable_twice(model):
    names = [
        one.name
        for one in getattr(model, "masked_kernels", [])
        if one.compressed
    ]
    if names:
        raise ValueError(
            "`model` must have masks: compressed kernels have no second "
            "derivatives. Call keras_freetickets.decompress(model). "
            f"Received: the compressed kernels {names}"
        )


def _numpy(value):
    return np.asarray(ops.convert_to_numpy(value))


class _Network:
    """A model as a function of some of its weights, flattened."""

    def __init__(self, model, variables, from_logits):
        self.model, self.from_logits = model, from_logits
        _check_differentiable_twice(model)
        every = model.trainable_variables
        places = {id(variable): i for i, variable in enumerate(every)}
        chosen = every if variables is None else list(variables)
        self.chosen: list[typing.Any] = [
            places.get(id(variable)) for variable in chosen
        ]
        if not chosen or None in self.chosen:
            raise ValueError(
                "`variables` must be trainable variables of the model, at "
                f"least one. Received: {len(chosen)} variables, of which "
                f"{self.chosen.count(None)} are not"
            )
        self.variables = chosen
        self.sizes = [int(np.prod(one.shape)) for one in chosen]

    def theta(self):
        values = [_numpy(one.value).ravel() for one in self.variables]
        return np.concatenate(values).astype("float32")

    def mask(self):
        """1 for weights that may move, 0 for those outside their mask."""
        masked = getattr(self.model, "masked_kernels", [])
        masks = {id(one.kernel): _numpy(one.mask.value) for one in masked}
        return np.concatenate(
            [
                masks.get(id(one), np.ones(one.shape)).ravel()
                for one in self.variables
            ]
        ).astype("float64")

    def log_probabilities(self, theta, x):
        """Of rows, `(rows, classes)`, and the losses of regularizers."""
        trainable = [v.value for v in self.model.trainable_variables]
        start = 0
        for place, variable, size in zip(
            self.chosen, self.variables, self.sizes, strict=True
        ):
            part = theta[start : start + size]
            trainable[place] = ops.reshape(part, variable.shape)
            start += size
        fixed = [v.value for v in self.model.non_trainable_variables]
        outputs, _, losses = self.model.stateless_call(
            trainable, fixed, x, training=False, return_losses=True
        )
        outputs = ops.reshape(outputs, (-1, outputs.shape[-1]))
        if self.from_logits:
            logs = ops.log_softmax(outputs)
        else:
            logs = ops.log(ops.maximum(outputs, np.finfo("float32").tiny))
        return logs, sum(losses) if losses else 0.0

    def rows_and_classes(self, x):
        *shape, classes = self.model(x, training=False).shape
        return int(np.prod(shape)), classes
