"""Times the first training step: what tracing and compiling take.

```shell
python benchmarks/first_step.py --output=first_step.json
python benchmarks/first_step.py --networks=six-64 --optimizer=adam --fits=4
```

Each figure comes from a process of its own, which builds a model, compiles it
in Keras' sense and then takes the time of the first `train_on_batch`. Dense,
dense once more (the control), sparse with masks that rest (static) and sparse
with RigL take turns, in an order drawn for each round; ratios are of the same
round. Where Keras does not compile the step as a whole (graph), the program of
the update is compiled at the first update: `first update` is the processor
time of that step.

With `--fits=N` a process makes N fits of 16 steps, each with a new callback
where the kind is RigL, and the processor time of each is reported.

Beside the clock, processor time is shown (`cpu`): the steadier figure on a
machine shared with others.
"""

import json
import subprocess
import sys

import common
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import backend
from common import batch
from common import compile_model
from common import network
from common import new_report
from common import save
from common import shown
from common import spread
from common import timed

import keras_freetickets as kft
from keras_freetickets.topology import RigL

flags.adopt_module_key_flags(common)
flags.DEFINE_list("networks", ["small_cnn", "wrn-16-4"], "In common.py.")
flags.DEFINE_list(
    "modes",
    ["graph", "xla"],
    "How the step is compiled. JAX knows xla alone.",
)
flags.DEFINE_string("optimizer", "sgd", "sgd (with momentum) or adam.")
flags.DEFINE_integer("rounds", 5, "Processes of each kind.", lower_bound=1)
flags.DEFINE_integer("fits", 0, "Fits of 16 steps to time instead.", 0)
flags.DEFINE_integer("batch_size", 32, "Examples in a batch.", 1)
flags.DEFINE_float("sparsity", 0.8, "Share of weights to remove.", 0, 1)
flags.DEFINE_string(
    "measure", None, "Internal: network,mode,kind to measure in this process."
)

KINDS = ("dense", "dense again", "static", "RigL")


def measure_here(name, mode, kind):
    """Prints milliseconds of one model's first steps or fits, as JSON."""
    model = network(name)
    if kind in ("static", "RigL"):
        model = kft.sparsify(model, FLAGS.sparsity, seed=FLAGS.seed)
    compile_model(model, FLAGS.optimizer, mode == "xla")
    measured = fits_of if FLAGS.fits else steps_of
    print(json.dumps(measured(model, name, kind)))


def fits_of(model, name, kind):
    x, y = (np.array(a) for a in batch(name, 16 * FLAGS.batch_size))

    def fit():
        rigl = [kft.callbacks.RigL(update_interval=5)] if kind == "RigL" else []
        model.fit(x, y, batch_size=FLAGS.batch_size, verbose=0, callbacks=rigl)

    return {"fits": [list(timed(fit)) for _ in range(FLAGS.fits)]}


def steps_of(model, name, kind):
    if kind == "RigL":
        model.attach(RigL())
    data = batch(name, FLAGS.batch_size)
    figures = {"first_step": list(timed(model.train_on_batch, *data))}
    if kind == "RigL":
        model.update_state.next_update.assign(0)
        figures["first_update"] = list(timed(model.train_on_batch, *data))
    figures["later_step"] = list(timed(model.train_on_batch, *data))
    return figures


def measure(name, mode, kind):
    """The figures of a fresh process."""
    arguments = [
        f"--measure={name},{mode},{kind}",
        f"--optimizer={FLAGS.optimizer}",
        f"--batch_size={FLAGS.batch_size}",
        f"--fits={FLAGS.fits}",
        f"--sparsity={FLAGS.sparsity}",
        f"--seed={FLAGS.seed}",
    ]
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def rows_of_fits(found):
    """Processor time of each fit by kind; the last one beside the static."""
    times = {
        kind: np.array([figures["fits"] for figures in processes])[:, :, 1]
        for kind, processes in found.items()
    }
    return {
        kind: {
            "fits_cpu_ms": [spread(one) for one in values.T],
            "last_to_static": spread(values[:, -1] / times["static"][:, -1]),
        }
        for kind, values in times.items()
    }


def show_fits(title, rows):
    print(f"\n{title}: processor ms of each fit; the last to the static one's")
    for kind, row in rows.items():
        cells = [shown(one, 0) for one in row["fits_cpu_ms"]]
        cells.append(shown(row["last_to_static"], 2))
        print(f"{kind:14}" + "".join(f"{cell:>28}" for cell in cells))


def rows_of(found):
    """Figures by kind, from lists of the figures of processes by kind."""
    rows = {}
    first = {
        kind: np.array([figures["first_step"] for figures in processes])
        for kind, processes in found.items()
    }
    for kind, values in first.items():
        ratios = values / first["dense"]
        rows[kind] = {
            "first_step_ms": spread(values[:, 0]),
            "cpu_ms": spread(values[:, 1]),
            "ratio": spread(ratios[:, 0]),
            "cpu_ratio": spread(ratios[:, 1]),
        }
        if "first_update" in found[kind][0]:
            times = [figures["first_update"][1] for figures in found[kind]]
            rows[kind]["first_update_cpu_ms"] = spread(times)
    return rows


def show(title, rows):
    print(f"\n{title}")
    names = ("first step, ms", "cpu, ms", "ratio", "cpu ratio", "update, cpu")
    print(f"{'':14}" + "".join(f"{name:>28}" for name in names))
    for kind, row in rows.items():
        cells = [
            shown(row["first_step_ms"], 0),
            shown(row["cpu_ms"], 0),
            shown(row["ratio"], 2),
            shown(row["cpu_ratio"], 2),
        ]
        if "first_update_cpu_ms" in row:
            cells.append(shown(row["first_update_cpu_ms"], 0))
        print(f"{kind:14}" + "".join(f"{cell:>28}" for cell in cells))


def main(_):
    if FLAGS.measure:
        measure_here(*FLAGS.measure.split(","))
        return
    report = new_report()
    rng = np.random.default_rng(FLAGS.seed)
    for name in FLAGS.networks:
        for mode in ["xla"] if backend() == "jax" else FLAGS.modes:
            found = {kind: [] for kind in KINDS}
            for _ in range(FLAGS.rounds):
                for kind in map(str, rng.permutation(KINDS)):
                    found[kind].append(measure(name, mode, kind))
            title = f"{name}, {mode}, {FLAGS.optimizer}"
            if FLAGS.fits:
                rows = rows_of_fits(found)
                show_fits(title, rows)
            else:
                rows = rows_of(found)
                show(title, rows)
            for kind, row in rows.items():
                case = {"network": name, "mode": mode, "kind": kind}
                report["rows"].append({**case, **row})
            save(report)


if __name__ == "__main__":
    app.run(main)
