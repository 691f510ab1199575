"""The posterior over sub-ensembles: which members to keep."""

import functools
import importlib
import importlib.util
from typing import Any

import numpy as np

from keras_freetickets.arguments import check_number
from keras_freetickets.metrics import arrays
from keras_freetickets.sampling.energies import check_states
from keras_freetickets.types import Array

# Smaller probabilities count as this one.
_SMALLEST = 1e-12


@functools.cache
def _compiled() -> Any:
    """The compiled likelihoods, or `None` without numba."""
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("keras_freetickets.sampling.compiled")


class SubEnsembles:
    """Energy of sub-ensembles, from predictions that are made once.

    Bit m of a state says whether member m predicts. The energy is
    `-beta * NLL - cost * members`, with the mean negative log-likelihood of the
    averaged probabilities on validation examples. Only the probability of each
    example's label is needed. The empty ensemble predicts all classes alike.

    Args:
        y_true: Integer labels `(examples,)` of the validation set. The test set
            must not decide which members are kept.
        members: Array `(members, examples, classes)` of probabilities, as
            `EnsembleModel.predict_members` returns it.
        beta: Positive float, or `None`. By default the number of examples: then
            the target is a posterior, with the prior exp(-cost) on a member.
        cost: Float, what a member costs; 0 by default.

    Raises:
        ValueError: If labels or probabilities do not fit, or an argument is out
            of range.

    Example:

    ```python
    members = ensemble.predict_members(x_validation)
    energy = kft.sampling.SubEnsembles(y_validation, members, cost=0.5)
    start = np.ones((64, len(members)), int)
    samples = kft.sampling.DiscreteSampler().run(energy, start, 1000, 200)
    weights = energy.weights(samples.states)
    probabilities = np.tensordot(weights, ensemble.predict_members(x), 1)
    ```
    """

    def __init__(
        self,
        y_true: Array,
        members: Array,
        beta: float | None = None,
        cost: float = 0.0,
    ) -> None:
        members = np.asarray(members)
        if members.ndim != 3:
            raise ValueError(
                "`members` must be an array (members, examples, classes). "
                f"Received: members of shape {members.shape}"
            )
        rows = [arrays.read_arrays(y_true, one)[1] for one in members]
        labels = arrays.read_arrays(y_true, members[0])[0]
        self.num_classes = rows[0].shape[-1]
        chosen = [one[np.arange(len(labels)), labels] for one in rows]
        chosen = np.maximum(np.asarray(chosen, "float64"), _SMALLEST)
        self.probabilities = np.ascontiguousarray(chosen)
        if beta is not None:
            check_number("beta", beta, "(0, inf)")
        check_number("cost", cost, "(-inf, inf)")
        self.beta = float(len(labels) if beta is None else beta)
        self.cost = float(cost)

    def _energies(self, logs, sizes):
        """From sums of logarithms of summed probabilities, and sizes."""
        examples = self.probabilities.shape[1]
        mean = logs / examples - np.log(np.maximum(sizes, 1))
        mean = np.where(sizes > 0, mean, -np.log(self.num_classes))
        return self.beta * mean - self.cost * sizes

    def __call__(self, states: Array) -> np.ndarray:
        """Energies of sub-ensembles.

        Args:
            states: Integer array `(states, members)` of 0 and 1.

        Returns:
            Array `(states,)` of float64.

        Raises:
            ValueError: If the states do not fit the members.
        """
        states = self._checked(states)
        sums = np.maximum(states @ self.probabilities, _SMALLEST)
        return self._energies(np.log(sums).sum(axis=1), states.sum(axis=1))

    def differences(self, states: Array) -> np.ndarray:
        """U(member is in) - U(member is out), for each member.

        numba compiles it, if it is installed
        (`pip install 'keras_freetickets[compressed]'`); else NumPy computes the
        same within rounding.

        Args:
            states: As for a call.

        Returns:
            Array `(states, members)` of float64.

        Raises:
            ValueError: As for a call.
        """
        states = self._checked(states)
        sums = states @ self.probabilities
        sizes = states.sum(axis=1)[:, None]
        signs = 1 - 2 * states
        compiled = _compiled()
        if compiled is not None:
            flips = compiled.flipped_logs(states, sums, self.probabilities)
        else:
            flips = self._flips(sums, signs)
        flipped = self._energies(flips, sizes + signs)
        logs = np.log(np.maximum(sums, _SMALLEST)).sum(axis=1)
        present = self._energies(logs, sizes[:, 0])
        return signs * (flipped - present[:, None])

    def _flips(self, sums, signs):
        """What `compiled.flipped_logs` computes, state by state."""
        found = np.empty(signs.shape)
        for row, state, sign in zip(found, sums, signs, strict=True):
            flipped = state + sign[:, None] * self.probabilities
            row[:] = np.log(np.maximum(flipped, _SMALLEST)).sum(axis=1)
        return found

    def _checked(self, states):
        states = check_states("states", states, 2)
        if states.shape[1] != len(self.probabilities):
            raise ValueError(
                f"`states` must have a bit for each of the "
                f"{len(self.probabilities)} members. Received: states of "
                f"shape {states.shape}"
            )
        return states

    def weights(self, states: Array) -> np.ndarray:
        """Weights of the members in the mean prediction of sub-ensembles.

        Args:
            states: Integer array `(..., members)`, samples; empty ensembles are
                left out.

        Returns:
            Array `(members,)` that sums to 1.

        Raises:
            ValueError: If no sample has a member.
        """
        flat = np.asarray(states).reshape(-1, len(self.probabilities))
        flat = self._checked(flat)
        flat = flat[flat.sum(axis=1) > 0]
        if not len(flat):
            raise ValueError(
                "`states` must hold a sub-ensemble with a member. Received: "
                "states that are all empty"
            )
        return (flat / flat.sum(axis=1, keepdims=True)).mean(axis=0)
