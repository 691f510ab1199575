"""Predicts with sparse tickets as one sparse network, without Keras."""

import typing

import numpy as np

from keras_freetickets import packed_file
from keras_freetickets.optional import import_optional
from keras_freetickets.serving import pooling as pools
from keras_freetickets.serving.networks import network_of
from keras_freetickets.types import Array
from keras_freetickets.types import PathLike

# Examples of a pass: larger batches need no more memory for activations.
_PASS = 1024


class SparsePredictor:
    """Predicts with the active weights of an ensemble, or of one ticket.

    It needs NumPy, numba and a packed file, and imports none of Keras,
    TensorFlow and JAX. Its members are chains of dense layers, with biases,
    the usual activations, Flatten, Reshape, Rescaling, Normalization and
    BatchNormalization, which become part of the weights, and layers that do
    nothing in prediction, such as Dropout; or they are convolutional networks,
    with shortcuts and pooling too (docs/serving.md lists the layers).

    It computes in float32 on processors, and returns what
    `keras_freetickets.EnsembleModel` does to within rounding. NaN in an input
    reaches the units that have a connection to it; a dense product would
    spread it to all. The first calls compile, unless the compiled kernels of
    an earlier process are found. Several threads may share a predictor.

    Args:
        ensemble: Dict, what `EnsembleModel.get_config` returns.
        arrays: Dict of arrays `(members, ...)` by the path of their variable
            in a member.

    Attributes:
        input_shape: Tuple of integers, the shape of an example.
        num_members: Integer.
        num_outputs: Integer, what a member returns for an example.
        pooling: As for `EnsembleModel`.
        from_logits: Whether classifiers return logits.
        active: Integer, the number of weights of all members.

    Raises:
        ImportError: If numba is not installed.
        ValueError: If a layer is of another kind. The error says which.

    Example:

    ```python
    ensemble.save_packed("run/ensemble.npz")
    # In another process, on a machine without Keras:
    predictor = keras_freetickets.serving.SparsePredictor.load(
        "run/ensemble.npz"
    )
    probabilities = predictor.predict(x)  # (batch, classes)
    ```
    """

    def __init__(
        self,
        ensemble: dict[str, typing.Any],
        arrays: dict[str, np.ndarray],
    ) -> None:
        import_optional("numba")
        self.num_members = int(ensemble["num_members"])
        self.pooling = ensemble.get("pooling") or "mean_probability"
        self.from_logits = bool(ensemble.get("from_logits"))
        self.input_shape, self._network = network_of(
            ensemble["template"], arrays, self.num_members
        )
        self.num_outputs = self._network.num_outputs
        self.active = self._network.active

    @classmethod
    def load(cls, path: PathLike) -> "SparsePredictor":
        """Reads what `EnsembleModel.save_packed` wrote.

        Args:
            path: Path of the file, with values of any `dtype` of
                `save_packed`.

        Returns:
            `SparsePredictor`.

        Raises:
            ImportError: If numba is not installed.
            ValueError: If the file is missing, damaged or of another kind, or
                a layer cannot be computed.
        """
        try:
            ensemble, records = packed_file.read(path)
            arrays = packed_file.plain_arrays(records, ensemble["num_members"])
        except Exception as error:
            raise ValueError(
                "`path` must be a file as `EnsembleModel.save_packed` writes "
                f"it. Received: path={path} ({type(error).__name__}: {error})"
            ) from error
        return cls(ensemble, arrays)

    @classmethod
    def from_ensemble(cls, ensemble: typing.Any) -> "SparsePredictor":
        """A predictor of the same weights, without a file.

        Args:
            ensemble: `EnsembleModel`, for example
                `EnsembleModel.from_tickets("run")`. What happens to it later
                does not change the predictor.

        Returns:
            `SparsePredictor`.

        Raises:
            ImportError: If numba is not installed.
            ValueError: If a layer cannot be computed.
        """
        return cls(ensemble.get_config(), ensemble.arrays_by_path())

    def predict(self, x: Array) -> np.ndarray:
        """What the ensemble predicts.

        Args:
            x: Array of numbers, of shape `(batch, *input_shape)`.

        Returns:
            float32 array `(batch, outputs)`: for classifiers probabilities
            (in one column that of class 1), for regressors means, and with
            `pooling="mean_and_variance"` then variances.

        Raises:
            ValueError: If `x` has another shape or holds no numbers, or the
                ensemble's pooling is a function.
        """
        return self.predict_with_members(x)[0]

    def predict_members(self, x: Array) -> np.ndarray:
        """What each member predicts, as `EnsembleModel.predict_members`.

        Args:
            x: Array of numbers, of shape `(batch, *input_shape)`.

        Returns:
            float32 array `(members, batch, outputs)`: of classifiers
            probabilities, otherwise the outputs as they are.

        Raises:
            ValueError: If `x` has another shape or holds no numbers.
        """
        return pools.as_members(
            self._outputs(x), self.pooling, self.from_logits
        )

    def predict_with_members(self, x: Array) -> tuple[np.ndarray, np.ndarray]:
        """What the ensemble and each member predict, from one pass.

        Args:
            x: Array of numbers, of shape `(batch, *input_shape)`.

        Returns:
            Tuple of what `predict` and `predict_members` return.

        Raises:
            ValueError: As for `predict`.

        Example:

        ```python
        mean, members = predictor.predict_with_members(x)
        disagreement = members.std(axis=0)
        ```
        """
        pools.check_named(self.pooling)
        outputs = self._outputs(x)
        if self.pooling == "mean_logits":
            pooled = pools.mean_of_logits(outputs, self.from_logits)
        members = pools.as_members(outputs, self.pooling, self.from_logits)
        if self.pooling == "mean_and_variance":
            pooled = pools.mean_and_variance(members)
        elif self.pooling != "mean_logits":
            # As `mean`, whose own work takes longer than the sum.
            pooled = np.add.reduce(members, axis=0)
            pooled /= np.float32(self.num_members)
        return pooled, members

    def _outputs(self, x: Array) -> np.ndarray:
        """Outputs of all members, as they are."""
        x = np.asarray(x)
        if x.dtype.kind not in "biuf":
            raise ValueError(
                f"`x` must be an array of numbers. Received: x.dtype={x.dtype}"
            )
        if x.shape[1:] != self.input_shape or x.ndim == 0:
            expected = ", ".join(map(str, ("batch", *self.input_shape)))
            raise ValueError(
                f"`x` must have the shape ({expected}). Received: "
                f"x.shape={x.shape}"
            )
        rows = x.reshape(len(x), self._network.num_inputs)
        rows = np.ascontiguousarray(rows, "float32")
        if len(rows) <= _PASS:
            return self._network.predict_members(rows)
        shape = self.num_members, len(rows), self.num_outputs
        found = np.empty(shape, "float32")
        for first in range(0, len(rows), _PASS):
            part = rows[first : first + _PASS]
            outputs = self._network.predict_members(part)
            found[:, first : first + _PASS] = outputs
        return found

    def __repr__(self) -> str:
        return (
            f"<SparsePredictor members={self.num_members}, "
            f"input_shape={self.input_shape}, outputs={self.num_outputs}, "
            f"active={self.active}>"
        )
