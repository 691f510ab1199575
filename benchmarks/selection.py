"""Times the exact selection of the k best scores against other ways.

```shell
taskset -c 1 python benchmarks/selection.py --output=selection.json
```

Ways: `numpy.partition` (a mask needs more: a floor), XLA's sort
(`tf.math.top_k`), bisection of one threshold a pass (this package's first
version), and this package's selection in an XLA program and in a graph. All
are timed once a round, in an order drawn anew, so that changes of the
machine's speed and what the one before left in caches and memory meet all of
them. The first is timed twice as a control.
"""

import json
import os
import platform
import statistics
import time

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from keras import ops

from keras_freetickets.topology import random_bits
from keras_freetickets.topology import select
from keras_freetickets.topology import selection

FLAGS = flags.FLAGS
flags.DEFINE_list("sizes", ["1e6", "4e6"], "Numbers of scores.")
flags.DEFINE_integer("repeats", 15, "Rounds at each size.", lower_bound=1)
flags.DEFINE_float("share", 0.2, "Share of the scores to select.", 0, 1)
flags.DEFINE_float("top_k_up_to", 4e6, "Largest size for top_k: it is slow.")
flags.DEFINE_integer("seed", 0, "Seed of the scores.")
flags.DEFINE_string("output", None, "JSON file for the figures.")

BASELINE = "numpy.partition"
CONTROL = "numpy.partition again"
TOP_K = "top_k, XLA"


def bisected(keys, count):
    """The largest threshold that `count` keys reach, a bit a pass."""
    lowest = np.iinfo(np.int32).min
    bits = ops.convert_to_tensor(
        np.array([lowest] + [1 << b for b in range(30, -1, -1)], np.int32)
    )

    def narrow(step, threshold):
        candidate = ops.bitwise_xor(threshold, ops.take(bits, step))
        reached = ops.sum(ops.cast(keys >= candidate, "int32"))
        return ops.where(reached >= count, candidate, threshold)

    return ops.fori_loop(0, 32, narrow, ops.full_like(count, lowest))


def bisection(scores, k):
    """The k best scores by 32 passes, and 32 more for ties."""
    keys = selection.sort_keys(scores)
    threshold = bisected(keys, k)
    above, equal = keys > threshold, ops.equal(keys, threshold)
    missing = k - ops.sum(ops.cast(above, "int32"))
    bits = random_bits(tuple(scores.shape), seed=0)
    bits = ops.bitwise_xor(bits, ops.cast(0x80000000, "uint32"))
    ranks = ops.where(equal, ops.view(bits, dtype="int32"), -(2**31))
    wins = ops.logical_and(equal, ranks >= bisected(ranks, missing))
    return ops.logical_or(above, ops.logical_and(wins, missing > 0))


def ways(size, wanted):
    """Callables of a tensor of scores that finish their work, by name."""
    k = tf.constant(wanted)

    def partition(scores):
        return np.partition(scores.numpy(), size - wanted)

    def program(function, jit_compile):
        run = tf.function(function, jit_compile=jit_compile, autograph=False)
        return lambda scores: run(scores, k).numpy()

    found = {BASELINE: partition, CONTROL: partition}
    if size <= FLAGS.top_k_up_to:
        found[TOP_K] = program(lambda s, k: tf.math.top_k(s, wanted)[1], True)
    found["bisection, XLA"] = program(bisection, True)
    found["select, XLA"] = program(select, True)
    found["select, graph"] = program(select, False)
    return found


def measure(scores, wanted):
    """Milliseconds of each round, by name of the way."""
    found = ways(len(scores), wanted)
    times = {name: [] for name in found}
    for function in found.values():
        function(scores)
    names = list(found)
    rng = np.random.default_rng(FLAGS.seed)
    for _ in range(FLAGS.repeats):
        for name in map(str, rng.permutation(names)):
            # The slow one is far from the others: three runs tell enough.
            if name == TOP_K and len(times[name]) == 3:
                continue
            start = time.perf_counter()
            found[name](scores)
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def machine():
    """Kind of processor and number of cores that this process may use."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {"processor": model, "cores": cores}


def summary(times):
    """Median, quartiles and ratios of each way."""
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows = {}
    for name, values in times.items():
        low, high = np.percentile(values, [25, 75])
        rows[name] = {
            "median_ms": medians[name],
            "quartiles_ms": [float(low), float(high)],
            "over_partition": medians[name] / medians[BASELINE],
            "top_k_over": medians.get(TOP_K, np.nan) / medians[name],
        }
    return rows


def show(scores, size, rows):
    print(f"\n{size:,} scores, {scores}")
    print(f"{'':24}{'ms':>10}{'quartiles':>20}{'/partition':>12}{'top_k/':>9}")
    for name, row in rows.items():
        low, high = row["quartiles_ms"]
        print(
            f"{name:24}{row['median_ms']:10.2f}{low:10.2f}{high:10.2f}"
            f"{row['over_partition']:12.2f}{row['top_k_over']:9.1f}"
        )


def main(_):
    tf.config.set_visible_devices([], "GPU")
    report = {"machine": machine(), "tensorflow": tf.__version__, "rows": []}
    print("{processor}, cores: {cores}".format(**report["machine"]))
    for size in (int(float(size)) for size in FLAGS.sizes):
        rng = np.random.default_rng(FLAGS.seed)
        for name, scores in (
            ("normal", rng.standard_normal(size, "float32")),
            ("all equal", np.zeros(size, "float32")),
        ):
            wanted = int(size * FLAGS.share)
            rows = summary(measure(tf.constant(scores), wanted))
            show(name, size, rows)
            for way, row in rows.items():
                entry = {"size": size, "scores": name, "way": way, **row}
                if np.isnan(row["top_k_over"]):
                    del entry["top_k_over"]
                report["rows"].append(entry)
    if FLAGS.output:
        with open(FLAGS.output, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    app.run(main)
