"""Measures samplers on two targets whose states can all be enumerated.

```shell
OPENBLAS_NUM_THREADS=1 taskset -c 1 python benchmarks/sampling_targets.py
```

The settings are those of Xiang et al. (arXiv:2302.13929): one chain that begins
with zeros, of 30,000 steps on a facility location with 15 facilities and 64
customers, and of 60,000 on 4 x 4 Ising spins with a coupling of 0.1, each edge
counted twice, and a bias of 0.2. MANA and UNA have the paper's alpha. The
paper's energy of facilities was not read: here it is lambda = 10 times the
customers' mean worth of the best open facility, worths uniform in [0, 1], minus
--cost for each open one.

A row has the mean and the largest error of a coordinate's marginal against
enumeration, the acceptance, coordinates changed by a proposal, effective
samples of the energy, and steps and effective samples for each second of the
process' own processor time.
"""

import itertools
import time

import common
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import new_report
from common import save

from keras_freetickets.sampling import DiscreteSampler

flags.adopt_module_key_flags(common)
flags.DEFINE_integer("facility_steps", 30_000, "Steps.", lower_bound=2)
flags.DEFINE_integer("ising_steps", 60_000, "Steps.", lower_bound=2)
flags.DEFINE_float("scale", 10.0, "Lambda of the facilities.", 0.0)
flags.DEFINE_float("cost", 1.0, "Price of an open facility.", 0.0)

ALPHAS = {
    "facility location": {"mana": 1.0, "una": 0.2},
    "Ising spins": {"mana": 0.5, "una": 0.1},
}


def facilities(seed):
    """Energy of 15 bits: which facilities are open for 64 customers."""
    worth = np.random.default_rng(seed).random((64, 15))

    def energy(states):
        best = (worth[None] * states[:, None]).max(axis=2).mean(axis=1)
        return FLAGS.scale * best - FLAGS.cost * states.sum(axis=1)

    return energy


def ising(width=4, coupling=0.1, bias=0.2):
    """Energy of spins on a square, given as bits."""
    index = np.arange(width * width).reshape(width, width)
    down = np.stack([index[:-1].ravel(), index[1:].ravel()], axis=1)
    right = np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()], axis=1)
    a, b = np.concatenate([down, right]).T

    def energy(states):
        spins = 2.0 * states - 1
        pairs = (spins[:, a] * spins[:, b]).sum(axis=1)
        return 2 * coupling * pairs + bias * spins.sum(axis=1)

    return energy


def marginals(energy, coordinates):
    """How often each bit is 1, from all states."""
    states = np.array(list(itertools.product((0, 1), repeat=coordinates)))
    logs = np.concatenate([energy(part) for part in np.split(states, 64)])
    weights = np.exp(logs - logs.max())
    return weights @ states / weights.sum()


def measure(target, energy, coordinates, steps):
    exact = marginals(energy, coordinates)
    for method in ("mana", "una", "locally_balanced", "gibbs"):
        alpha = ALPHAS[target].get(method)
        sampler = DiscreteSampler(method=method, alpha=alpha, seed=FLAGS.seed)
        begun = time.process_time()
        found = sampler.run(energy, np.zeros((1, coordinates), int), steps)
        seconds = time.process_time() - begun
        errors = np.abs(found.means() - exact)
        effective = found.effective_sample_size()
        yield {
            "case": f"{target}, {method}",
            "alpha": alpha or 0.0,
            "mean_error": float(errors.mean()),
            "largest_error": float(errors.max()),
            "acceptance": found.acceptance,
            "changes": found.changes,
            "effective": float(effective),
            "step_rate": steps / seconds,
            "effective_rate": float(effective / seconds),
        }


def main(_):
    report = new_report()
    targets = (
        ("facility location", facilities(FLAGS.seed), 15, FLAGS.facility_steps),
        ("Ising spins", ising(), 16, FLAGS.ising_steps),
    )
    for target in targets:
        for row in measure(*target):
            report["rows"].append(row)
            print(
                f"{row['case']}: mean error {row['mean_error']:.4f}, "
                f"acceptance {row['acceptance']:.3f}, "
                f"{row['changes']:.2f} changes, "
                f"{row['effective']:,.0f} effective samples, "
                f"{row['effective_rate']:,.0f} a processor second",
                flush=True,
            )
    save(report)


if __name__ == "__main__":
    app.run(main)
