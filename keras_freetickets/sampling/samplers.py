"""Markov chains on discrete states: Newton's proposal and its rivals."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_freetickets.arguments import check_choice
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.sampling import energies
from keras_freetickets.sampling import proposals
from keras_freetickets.sampling.energies import Energy
from keras_freetickets.sampling.samples import Samples
from keras_freetickets.types import Array

_METHODS = ("mana", "una", "gibbs", "locally_balanced")
_KINDS = ("ordinal", "categorical")
# The middle of the acceptance that the tuning of alpha aims at.
_TARGET = 0.65
_UNADJUSTED_ALPHA = 0.15
_SMALLEST, _LARGEST = 0.02, 1e4  # alpha; below, a bit flips once in e^25 steps
Row = dict[str, Any]


@dataclasses.dataclass
class _Chains:
    """The present states and what is cached of them."""

    states: np.ndarray
    values: np.ndarray
    logs: np.ndarray  # of the proposal from there; what a method needs
    local: np.ndarray  # differences, or energies of all levels


@dataclasses.dataclass(kw_only=True)
class DiscreteSampler:
    """Samples discrete states from a target proportional to exp(energy).

    Newton's proposal moves many coordinates at once: a first-order series of
    finite differences replaces the energies of all states, and factorizes. It
    needs no gradient. With the Metropolis-Hastings correction (`"mana"`) the
    samples are exact; without it (`"una"`) they are biased, the less the
    smaller `alpha` is. The rivals change one coordinate at a time: `"gibbs"`
    draws it from its conditional distribution; `"locally_balanced"` chooses
    among all neighbours by the square root of their ratios, and corrects.

    Everything is computed in logarithms. Differences of a state are cached, so
    that a rejected step costs nothing twice.

    Args:
        method: `"mana"`, `"una"`, `"gibbs"` or `"locally_balanced"`.
        levels: Integer of at least 2, the number of values of a coordinate:
            0 to `levels` - 1. Spins -1 and 1 are the bits 0 and 1; with steps
            of 2 `alpha` would mean something else.
        kind: `"ordinal"`, where a distance of 2 levels costs more than one, or
            `"categorical"`. For bits, categorical with twice the `alpha` is the
            same as ordinal.
        alpha: Positive float, the variance of a step, or `None`. By default
            `"mana"` tunes it during the burn-in, to an acceptance of 0.65, the
            middle of the range that the paper's tables suggest; for `"una"` it
            is 0.15, between the paper's 0.1 and 0.2. A step flips a bit of no
            consequence with probability sigmoid(-1 / (2 alpha)): 0.05 freezes
            a chain.
        decay: Float in (0, 1], factor of `alpha` after each step. Below 1 the
            chain is an optimizer (Xiang et al. decay exponentially).
        seed: Non-negative integer.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> def energy(states):  # independent bits, with probability sigmoid(1)
    ...     return states.sum(axis=1).astype(float)
    >>> sampler = DiscreteSampler(alpha=1.0)
    >>> start = np.zeros((8, 3), int)
    >>> samples = sampler.run(energy, start, steps=2000, burn_in=100)
    >>> bool(abs(samples.means() - 0.731).max() < 0.03)
    True

    Reference:
        Xiang et al., "Efficient Informed Proposals for Discrete Distributions
        via Newton's Series Approximation", https://arxiv.org/abs/2302.13929
        Zanella, "Informed proposals for local MCMC in discrete spaces",
        https://arxiv.org/abs/1711.07424
    """

    method: str = "mana"
    levels: int = 2
    kind: str = "ordinal"
    alpha: float | None = None
    decay: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, _METHODS)
        energies.check_levels(self.levels)
        check_choice("kind", self.kind, _KINDS)
        if self.alpha is not None:
            check_number("alpha", self.alpha, "(0, inf)")
        check_number("decay", self.decay, "(0, 1]")
        check_count("seed", self.seed, 0)

    def run(
        self,
        energy: Energy,
        start: Array,
        steps: int,
        burn_in: int = 0,
        callback: Callable[[Row], Any] | None = None,
    ) -> Samples:
        """Runs chains side by side.

        Args:
            energy: Function of an integer array `(states, coordinates)` that
                returns an array `(states,)` of float32 or float64: the
                logarithm of the target up to a constant. If it has a method
                `differences(states)`, which returns U(x_i = 1) - U(x_i = 0) as
                an array `(states, coordinates)`, bits are not flipped one by
                one.
            start: Integer array `(chains, coordinates)`.
            steps: Positive integer, steps that are kept.
            burn_in: Non-negative integer, steps before them, in which `alpha`
                is tuned.
            callback: Function of a dict with `step`, `steps`, `acceptance` and
                the mean `energy`, called about a hundred times.

        Returns:
            `Samples`.

        Raises:
            TypeError: If `energy` is not callable.
            ValueError: If the states do not fit, or the energy returns
                something else than finite floats, one for each state.
        """
        start = energies.check_states("start", start, self.levels)
        check_count("steps", steps)
        check_count("burn_in", burn_in, 0)
        return _Run(self, energy, start).run(steps, burn_in, callback)


class _Run:
    """One call of `DiscreteSampler.run`."""

    def __init__(self, sampler, energy, start):
        self.sampler = sampler
        self.energy = energy
        self.random = np.random.default_rng(sampler.seed)
        self.evaluations = 0
        self.tuned = sampler.alpha is None and sampler.method == "mana"
        alpha = sampler.alpha
        if alpha is None:
            alpha = 1.0 if self.tuned else _UNADJUSTED_ALPHA
        self.alpha = float(alpha)
        self.begun = time.perf_counter()
        self.now = self._at(start)

    def _values(self, states):
        self.evaluations += len(states)
        return energies.evaluate(self.energy, states)

    def _at(self, states):
        """States with their energies and the proposal from there."""
        values = self._values(states)
        return self._with_proposal(states, values, self._local(states, values))

    def _local(self, states, values):
        levels, method = self.sampler.levels, self.sampler.method
        size = states.size
        if method == "gibbs":
            return np.zeros((len(states), 0))
        if method != "locally_balanced" and self.sampler.kind == "ordinal":
            self.evaluations += size
            return energies.forward_differences(
                self.energy, states, values, levels
            )
        self.evaluations += size * (levels - 1)
        return energies.level_energies(self.energy, states, values, levels)

    def _with_proposal(self, states, values, local):
        sampler = self.sampler
        if sampler.method == "gibbs":
            logs = local
        elif sampler.method == "locally_balanced":
            logs = _balanced(states, local)
        elif sampler.kind == "ordinal":
            logs = proposals.ordinal_log_probabilities(
                states, local, self.alpha, sampler.levels
            )
        else:
            logs = proposals.categorical_log_probabilities(
                states, local, self.alpha
            )
        return _Chains(states, values, logs, local)

    def run(self, steps, burn_in, callback):
        chains, coordinates = self.now.states.shape
        kind = "int8" if self.sampler.levels <= 128 else "int64"
        states = np.empty((chains, steps, coordinates), kind)
        values = np.empty((chains, steps))
        accepted = changed = 0.0
        total = burn_in + steps
        every = max(1, total // 100)
        for step in range(total):
            share, changes = self._step()
            if step < burn_in:
                if self.tuned:
                    self._tune(step, share)
            else:
                states[:, step - burn_in] = self.now.states
                values[:, step - burn_in] = self.now.values
                accepted += share
                changed += changes
            if self.sampler.decay < 1:
                self._set_alpha(self.alpha * self.sampler.decay)
            if callback is not None and (step + 1) % every == 0:
                callback(
                    {
                        "step": step + 1,
                        "steps": total,
                        "acceptance": share,
                        "energy": float(self.now.values.mean()),
                    }
                )
        return Samples(
            states,
            values,
            acceptance=accepted / steps,
            changes=changed / steps,
            alpha=self.alpha,
            evaluations=self.evaluations,
            seconds=time.perf_counter() - self.begun,
        )

    def _tune(self, step, share):
        """Robbins and Monro's search of the wanted acceptance."""
        rate = 2.0 / (step + 1) ** 0.6
        self._set_alpha(self.alpha * np.exp(rate * (share - _TARGET)))

    def _set_alpha(self, alpha):
        self.alpha = float(np.clip(alpha, _SMALLEST, _LARGEST))
        now = self.now
        self.now = self._with_proposal(now.states, now.values, now.local)

    def _step(self):
        """Returns the share of accepted proposals and the changes of one."""
        if self.sampler.method == "gibbs":
            return self._gibbs_step()
        if self.sampler.method == "locally_balanced":
            return self._balanced_step()
        now = self.now
        uniforms = self.random.random(now.states.shape)
        proposed = proposals.draw(now.states, now.logs, uniforms)
        changes = float((proposed != now.states).sum(axis=1).mean())
        new = self._at(proposed)
        if self.sampler.method == "una":
            self.now = new
            return 1.0, changes
        ratio = new.values - now.values
        ratio += proposals.log_probability(now.states, new.logs)
        ratio -= proposals.log_probability(proposed, now.logs)
        return self._decide(new, ratio), changes

    def _decide(self, new, ratio):
        """Accepts some of the chains' proposals; returns their share."""
        now = self.now
        uniforms = self.random.random(len(ratio))
        accept = np.log(np.maximum(uniforms, 1e-300)) <= ratio

        def chosen(mine, other):
            shape = (-1, *(1,) * (mine.ndim - 1))
            return np.where(accept.reshape(shape), mine, other)

        self.now = _Chains(
            chosen(new.states, now.states),
            chosen(new.values, now.values),
            chosen(new.logs, now.logs),
            chosen(new.local, now.local),
        )
        return float(accept.mean())

    def _gibbs_step(self):
        """One random coordinate of each chain, from its conditional."""
        now, levels = self.now, self.sampler.levels
        chains, coordinates = now.states.shape
        rows = np.arange(chains)
        chosen = self.random.integers(0, coordinates, chains)
        values = np.empty((chains, levels))
        present = now.states[rows, chosen]
        values[rows, present] = now.values
        for shift in range(1, levels):
            level = (present + shift) % levels
            moved = now.states.copy()
            moved[rows, chosen] = level
            values[rows, level] = self._values(moved)
        logs = proposals.log_softmax(values)[:, None]
        uniforms = self.random.random((chains, 1))
        drawn = proposals.draw(present[:, None], logs, uniforms)[:, 0]
        states = now.states.copy()
        states[rows, chosen] = drawn
        changes = float((drawn != present).mean())
        self.now = _Chains(states, values[rows, drawn], now.logs, now.local)
        return 1.0, changes

    def _balanced_step(self):
        now, levels = self.now, self.sampler.levels
        chains = len(now.states)
        flat = now.logs.reshape(chains, -1)
        below = np.cumsum(np.exp(flat), axis=1)
        uniforms = self.random.random((chains, 1)) * below[:, -1:]
        place = (uniforms >= below).sum(axis=1)
        place = np.minimum(place, flat.shape[1] - 1)
        chosen, level = place // levels, place % levels
        rows = np.arange(chains)
        back = now.states[rows, chosen]
        proposed = now.states.copy()
        proposed[rows, chosen] = level
        new = self._at(proposed)
        reverse = new.logs[rows, chosen, back]
        ratio = new.values - now.values + reverse - flat[rows, place]
        return self._decide(new, ratio), float((back != level).mean())


def _balanced(states, level_energies):
    """Logarithms of the choice of one neighbour, by square roots of ratios."""
    present = np.take_along_axis(level_energies, states[..., None], axis=2)
    logits = (level_energies - present) / 2
    levels = level_energies.shape[2]
    stays = np.arange(levels) == states[..., None]
    logits = np.where(stays, -np.inf, logits)
    flat = proposals.log_softmax(logits.reshape(len(states), -1))
    return flat.reshape(level_energies.shape)
