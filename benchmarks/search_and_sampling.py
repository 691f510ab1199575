"""Measures trials of CoNNTrA, and steps over sub-ensembles, on one core.

```shell
OPENBLAS_NUM_THREADS=1 taskset -c 1 python benchmarks/search_and_sampling.py
```

Figures are per second of the process' own processor time, which other work on
the machine does not take; wall-clock seconds stand beside them. A trial is one
evaluation of the loss on all 1,433 training digits with one weight changed, in
a network of 64 hidden units; sweeps include what accepted changes cost. Beside
it, Keras evaluates the same network: `evaluate` as a whole, and the compiled
step alone (`test_on_batch`). A step of sampling is MANA's, of 64 chains on 50
members and 1,000 examples.
"""

import time

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import new_report
from common import save

import keras_freetickets as kft
from keras_freetickets.datasets import optdigits

flags.adopt_module_key_flags(common)
flags.DEFINE_integer("sweeps", 4, "Sweeps of the search.", lower_bound=1)
flags.DEFINE_integer("steps", 1000, "Steps of the sampler.", lower_bound=1)
flags.DEFINE_integer("calls", 30, "Evaluations by Keras.", lower_bound=1)


def rate(count, function):
    """Calls a function; how many a processor and a wall-clock second."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = function() or count
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"count": count, "cpu_rate": count / cpu, "wall_rate": count / wall}


def digits():
    """The training digits of the TFDS builder."""
    images, labels = optdigits._read_digits()
    test = optdigits._is_test(labels)
    return images[~test].reshape(-1, 64) / np.float32(255), labels[~test]


def trials(x, y):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="sparse_categorical_crossentropy")
    kft.discrete.CoordinateDescent(max_trials=1).fit(model, x, y)  # compiles

    def search():
        descent = kft.discrete.CoordinateDescent(
            sweeps=FLAGS.sweeps, seed=FLAGS.seed
        )
        found = descent.fit(model, x, y)
        return sum(row["trials"] for row in found.history)

    def repeat(call):
        def calls():
            for _ in range(FLAGS.calls):
                call()

        call()
        return calls

    return {
        "trials": rate(0, search),
        "evaluate": rate(
            FLAGS.calls,
            repeat(lambda: model.evaluate(x, y, batch_size=len(x), verbose=0)),
        ),
        "test_on_batch": rate(
            FLAGS.calls, repeat(lambda: model.test_on_batch(x, y))
        ),
    }


def sampling():
    random = np.random.default_rng(FLAGS.seed)
    labels = random.integers(0, 10, 1000)
    logits = random.normal(size=(50, 1000, 10))
    logits += np.linspace(0, 3, 50)[:, None, None] * np.eye(10)[labels]
    members = np.exp(logits)
    members /= members.sum(axis=2, keepdims=True)
    energy = kft.sampling.SubEnsembles(labels, members, cost=1.0)
    start = random.integers(0, 2, (64, 50))
    sampler = kft.sampling.DiscreteSampler(seed=FLAGS.seed)
    sampler.run(energy, start, 1)  # compiles

    def steps():
        sampler.run(energy, start, FLAGS.steps)

    return rate(FLAGS.steps, steps)


def main(_):
    report = new_report()
    rows = {**trials(*digits()), "steps of 64 chains": None}
    rows["steps of 64 chains"] = sampling()
    for way, row in rows.items():
        report["rows"].append({"way": way, **row})
        print(
            f"{way}: {row['cpu_rate']:,.0f} a processor second, "
            f"{row['wall_rate']:,.0f} a second"
        )
    save(report)


if __name__ == "__main__":
    app.run(main)
