"""Times an update of a whole network's connections: drop, grow, slots.

```shell
python benchmarks/update.py --output=update.json
KERAS_BACKEND=jax python benchmarks/update.py          # the same on JAX
```

Kernels, masks, gradients and momenta of a network go in, new masks, kernels
and momenta come out, all layers in one program, as in a training step. `ours`
is this package's update; `top_k` is the same update with `top_k` in place of
the selection (its counts are constants, which suits it: ours are computed).
All ways take turns in a random order each round; the first is timed twice
as a control.

The peak is the resident memory that one update takes on top of its inputs, in
bytes for each maskable weight: outputs (4 for the kernel, 4 for the momentum,
1 for the mask) and compilation included. As memory that was freed is kept for
reuse, only the first update of the process tells it: choose it by `--methods`
and `--modes`.
"""

import functools

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import backend
from common import network
from common import new_report
from common import peak_bytes
from common import program
from common import save
from common import shown
from common import spread
from common import timed
from keras import ops

import keras_freetickets as kft
from keras_freetickets.topology import SET
from keras_freetickets.topology import RigL
from keras_freetickets.topology import random_bits
from keras_freetickets.trainers import get_backend
from keras_freetickets.trainers import update as updates

flags.adopt_module_key_flags(common)
flags.DEFINE_string("network", "wrn-28-10", "A name in common.py.")
flags.DEFINE_list("methods", ["RigL", "SET"], "Methods.")
flags.DEFINE_list(
    "modes",
    ["graph", "xla"],
    "How the program around the update is compiled. JAX knows xla alone.",
)
flags.DEFINE_float("sparsity", 0.8, "Share of weights to remove.", 0, 1)
flags.DEFINE_float("drop_fraction", 0.3, "Share of connections to replace.")
flags.DEFINE_integer("rounds", 7, "Updates of each way.", lower_bound=1)
flags.DEFINE_integer("top_k_rounds", 2, "Updates of top_k, 0 for none.", 0)

# Both signs together: one selection for dropping, as the figures have it.
METHODS = {
    "RigL": RigL,
    "SET": functools.partial(SET, drop="magnitude"),
}


def arrays():
    """A network's maskable arrays: as in training, with random values."""
    model = kft.sparsify(
        network(FLAGS.network), FLAGS.sparsity, seed=FLAGS.seed
    )
    rng = np.random.default_rng(FLAGS.seed)

    def noise(shape):
        return rng.standard_normal(shape).astype("float32")

    records = [r for r in model.masked_kernels if r.active < r.size]
    masks = [ops.convert_to_numpy(r.mask.value) for r in records]
    found = {
        "kernels": [noise(m.shape) * m for m in masks],
        "masks": masks,
        "gradients": [noise(m.shape) for m in masks],
        "momenta": [noise(m.shape) * m for m in masks],
    }
    total = sum(r.size for r in model.masked_kernels)
    tensors = {
        name: [ops.convert_to_tensor(array) for array in values]
        for name, values in found.items()
    }
    return tensors, [r.active for r in records], total


def with_top_k(method, actives):
    """The same method, its masks found by `top_k`."""

    def best(scores, eligible, count):
        flat = ops.reshape(ops.where(eligible, scores, -np.inf), (-1,))
        _, places = ops.top_k(flat, count)
        chosen = ops.scatter(
            places[:, None], ops.ones(count, "int32"), tuple(flat.shape)
        )
        return ops.reshape(chosen > 0, tuple(scores.shape))

    def update(connections, fraction):
        pairs = []
        seed = connections[0].seed
        for layer, (c, active) in enumerate(
            zip(connections, actives, strict=True)
        ):
            replaced = int(active * FLAGS.drop_fraction)
            kept = best(ops.abs(c.kernel), c.mask, active - replaced)
            if method.growth == "gradient":
                scores = ops.abs(c.gradient)
            else:
                bits = random_bits(tuple(c.kernel.shape), seed, layer=layer)
                scores = ops.cast(ops.right_shift(bits, 8), "float32")
            grown = best(scores, ops.logical_not(kept), replaced)
            pairs.append((kept, grown))
        return pairs

    twin = type(method)(drop_fraction=FLAGS.drop_fraction)
    twin.update = update
    return twin


def whole_update(method, compiled):
    """A function of all arrays: an update as a training step makes it."""

    def run(kernels, masks, gradients, momenta, count):
        inputs = updates.KernelBatch(
            kernels,
            masks,
            gradients,
            [{} for _ in masks],
            fraction=ops.cast(FLAGS.drop_fraction, "float32"),
            step=count,
            update=count,
            seed=ops.cast(FLAGS.seed, "int32"),
        )
        new, alive, share, _ = compiled(
            lambda values: updates.new_masks(
                method, updates.KernelBatch(**values)
            ),
            [method],
        )(vars(inputs))
        kernels = [
            updates.projected(k, a, m, 0.0)
            for k, a, m in zip(kernels, alive, new, strict=True)
        ]
        momenta = [
            updates.projected(v, a, m, 0.0)
            for v, a, m in zip(momenta, alive, new, strict=True)
        ]
        return kernels, momenta, new, share

    return run


def ways(name, actives):
    """Programs of all arrays, by name."""
    method = METHODS[name](drop_fraction=FLAGS.drop_fraction)
    modes = ["xla"] if backend() == "jax" else FLAGS.modes
    found = {}
    for mode in modes:
        jit_compile = mode == "xla"
        run = whole_update(method, get_backend().compiled)
        found[f"ours, {mode}"] = program(run, jit_compile)
        if mode == modes[0]:
            found[f"ours again, {mode}"] = found[f"ours, {mode}"]
    for mode in modes if FLAGS.top_k_rounds else ():
        run = whole_update(with_top_k(method, actives), lambda f, _: f)
        found[f"top_k, {mode}"] = program(run, mode == "xla")
    return found


def measure(found, tensors):
    """Milliseconds of each round, by name; bytes of the first one's peak."""
    inputs = list(tensors.values())
    count = ops.cast(1, "int32")
    times = {name: [] for name in found}
    first = next(iter(found))
    peaks = {first: peak_bytes(lambda: found[first](*inputs, count))}
    for run in found.values():
        run(*inputs, count)
    rng = np.random.default_rng(FLAGS.seed)
    for _ in range(FLAGS.rounds):
        for name in map(str, rng.permutation(list(found))):
            slow = name.startswith("top_k")
            if slow and len(times[name]) == FLAGS.top_k_rounds:
                continue
            times[name].append(timed(found[name], *inputs, count))
    return times, peaks


def summary(times, peaks, total):
    rows = {}
    for name, values in times.items():
        clock, processors = np.transpose(values)
        rows[name] = {
            "ms": spread(clock),
            "ms_per_million": spread(clock / (total / 1e6)),
            "cpu_ms_per_million": spread(processors / (total / 1e6)),
        }
        if peaks.get(name) is not None:
            rows[name]["peak_bytes_per_weight"] = peaks[name] / total
    for name, row in rows.items():
        kind, mode = name.split(", ")
        other = rows.get(f"top_k, {mode}")
        if kind != "top_k" and other:
            row["top_k_over"] = other["ms"]["median"] / row["ms"]["median"]
    return rows


def show(title, rows):
    print(f"\n{title}")
    print(
        f"{'':18}{'ms':>32}{'ms per million':>28}{'of processors':>28}"
        f"{'top_k/':>8}{'peak':>7}"
    )
    for name, row in rows.items():
        print(
            f"{name:18}{shown(row['ms'], 1):>32}"
            f"{shown(row['ms_per_million'], 2):>28}"
            f"{shown(row['cpu_ms_per_million'], 2):>28}"
            f"{row.get('top_k_over', np.nan):8.1f}"
            f"{row.get('peak_bytes_per_weight', np.nan):7.1f}"
        )


def main(_):
    report = new_report()
    keras.utils.set_random_seed(FLAGS.seed)
    tensors, actives, total = arrays()
    for name in FLAGS.methods:
        times, peaks = measure(ways(name, actives), tensors)
        if name != FLAGS.methods[0]:
            peaks = {}
        rows = summary(times, peaks, total)
        show(f"{FLAGS.network}, {name}, {total:,} maskable weights", rows)
        for way, row in rows.items():
            report["rows"].append({"method": name, "way": way, **row})
        save(report)


if __name__ == "__main__":
    app.run(main)
