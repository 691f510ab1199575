"""Times the exact selection of the k best scores against other ways.

```shell
taskset -c 1 python benchmarks/selection.py --output=selection.json
KERAS_BACKEND=jax python benchmarks/selection.py --sizes=3.6e7   # on a GPU
```

Ways: `numpy.partition` on the host (a mask needs more: a floor), XLA's sort
(`top_k`), bisection of one threshold a pass (this package's first version),
and this package's selection in an XLA program and, on TensorFlow, in a graph.
All are timed once a round, in a random order, so that changes of the
machine's speed and what the one before left in caches and memory meet all of
them. The first is timed twice as a control.
"""

import common
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import backend
from common import new_report
from common import program
from common import save
from common import spread
from common import timed
from keras import ops

from keras_freetickets.topology import random_bits
from keras_freetickets.topology import select
from keras_freetickets.topology import selection

flags.adopt_module_key_flags(common)
flags.DEFINE_list("sizes", ["1e6", "4e6"], "Numbers of scores.")
flags.DEFINE_integer("repeats", 15, "Rounds at each size.", lower_bound=1)
flags.DEFINE_float("share", 0.2, "Share of the scores to select.", 0, 1)
flags.DEFINE_float("top_k_up_to", 4e6, "Largest size for top_k: it is slow.")

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


def ways(scores, wanted):
    """Callables without arguments that finish their work, by name."""
    size = len(scores)
    on_device = ops.convert_to_tensor(scores)
    k = ops.convert_to_tensor(np.int32(wanted))

    def partition():
        return np.partition(scores, size - wanted)

    def run(function, jit_compile=True):
        compiled = program(function, jit_compile)
        return lambda: compiled(on_device, k)

    found = {BASELINE: partition, CONTROL: partition}
    if size <= FLAGS.top_k_up_to:
        found[TOP_K] = run(lambda s, k: ops.top_k(s, wanted)[1])
    found["bisection, XLA"] = run(bisection)
    found["select, XLA"] = run(select)
    if backend() == "tensorflow":
        found["select, graph"] = run(select, jit_compile=False)
    return found


def measure(scores, wanted):
    """Milliseconds of each round, clock and processors, by name."""
    found = ways(scores, wanted)
    times = {name: [] for name in found}
    for function in found.values():
        function()
    rng = np.random.default_rng(FLAGS.seed)
    for _ in range(FLAGS.repeats):
        for name in map(str, rng.permutation(list(found))):
            # The slow one is far from the others: three runs tell enough.
            if name == TOP_K and len(times[name]) == 3:
                continue
            times[name].append(timed(found[name]))
    return times


def summary(times):
    """Medians, quartiles and ratios of medians of each way."""
    clock = {name: np.transpose(t)[0] for name, t in times.items()}
    medians = {name: float(np.median(t)) for name, t in clock.items()}
    rows = {}
    for name, values in clock.items():
        rows[name] = {
            "ms": spread(values),
            "cpu_ms": spread(np.transpose(times[name])[1]),
            "over_partition": medians[name] / medians[BASELINE],
        }
        if TOP_K in medians:
            rows[name]["top_k_over"] = medians[TOP_K] / medians[name]
    return rows


def show(title, rows):
    print(f"\n{title}")
    names = ("ms", "quartiles", "", "cpu ms", "/partition", "top_k/")
    print(f"{'':24}" + "".join(f"{name:>11}" for name in names))
    for name, row in rows.items():
        cells = [
            row["ms"]["median"],
            *row["ms"]["quartiles"],
            row["cpu_ms"]["median"],
            row["over_partition"],
            row.get("top_k_over", np.nan),
        ]
        print(f"{name:24}" + "".join(f"{cell:11.2f}" for cell in cells))


def main(_):
    report = new_report()
    for size in (int(float(size)) for size in FLAGS.sizes):
        rng = np.random.default_rng(FLAGS.seed)
        for name, scores in (
            ("normal", rng.standard_normal(size, "float32")),
            ("all equal", np.zeros(size, "float32")),
        ):
            rows = summary(measure(scores, int(size * FLAGS.share)))
            show(f"{size:,} scores, {name}", rows)
            for way, row in rows.items():
                entry = {"size": size, "scores": name, "way": way, **row}
                report["rows"].append(entry)
            save(report)


if __name__ == "__main__":
    app.run(main)
