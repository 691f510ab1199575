"""What chains have visited, and one answer of it."""

import dataclasses

import numpy as np

from keras_freetickets.arguments import check_count
from keras_freetickets.sampling.diagnostics import effective_sample_size


@dataclasses.dataclass
class Samples:
    """What `DiscreteSampler.run` returns.

    The arguments are the attributes.

    Args:
        states: Integer array `(chains, steps, coordinates)`, without the
            burn-in.
        energies: Array `(chains, steps)`.
        acceptance: Float, the share of proposals that were accepted; 1 for
            `"una"` and `"gibbs"`.
        changes: Float, mean number of coordinates that a proposal changes.
        alpha: Float, the step size after the burn-in.
        evaluations: Integer, energies that were asked for, burn-in included.
        seconds: Float, of the whole run.

    Example:

    ```python
    samples = DiscreteSampler().run(energy, start, steps=1000)
    samples.means(), samples.effective_sample_size()
    ```
    """

    states: np.ndarray
    energies: np.ndarray
    acceptance: float
    changes: float
    alpha: float
    evaluations: int
    seconds: float

    def means(self) -> np.ndarray:
        """Mean level of each coordinate; for bits, how often each is 1."""
        return self.states.mean(axis=(0, 1))

    def effective_sample_size(self) -> float:
        """`sampling.effective_sample_size` of the energies."""
        return effective_sample_size(self.energies)

    def best(self) -> np.ndarray:
        """The state of the highest energy that a chain has visited."""
        place = np.unravel_index(self.energies.argmax(), self.energies.shape)
        return self.states[place]

    def majority(self) -> np.ndarray:
        """The most frequent level of each coordinate; the lower of equals."""
        levels = int(self.states.max()) + 1
        flat = self.states.reshape(-1, self.states.shape[-1])
        counts = [(flat == level).sum(axis=0) for level in range(levels)]
        return np.argmax(counts, axis=0)

    def most_frequent(self, budget: int) -> np.ndarray:
        """Bits that keep the coordinates with the largest means.

        Args:
            budget: Integer, how many coordinates are 1.

        Raises:
            ValueError: If there are not so many coordinates.
        """
        count = self.states.shape[-1]
        check_count("budget", budget, 0)
        if budget > count:
            raise ValueError(
                f"`budget` must be at most {count}, the number of "
                f"coordinates. Received: budget={budget}"
            )
        kept = np.zeros(count, "int64")
        kept[np.argsort(-self.means(), kind="stable")[:budget]] = 1
        return kept
