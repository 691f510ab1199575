r"""Trains on images of half the size in some steps, against full size alone.

    python examples/interleaved_resolution.py
    python examples/interleaved_resolution.py --num_tickets=3 --sparsity=0.8
    python examples/interleaved_resolution.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --num_examples=10000 --seeds=0,1,2

Three trainings of the same convolutional network, which take turns epoch by
epoch so that a busy machine slows all of them down: all steps at full size
(full); the same number of steps, of which --share are at half the size
(interleaved); and full size with fewer steps, as many as the seconds of the
second training pay for (full, equal cost), for which steps of both kinds are
timed first, in turns. Each training's learning rate falls to 0 by a cosine of
its own length.

With --num_tickets the three are runs of EDST, one after the other: only the
exploration has reduced steps, and the rows are those of the tickets' mean.

The table has seconds by the clock, and of all processors for this process,
without the first epoch, in which steps are compiled; test accuracy, NLL and
ECE. The default data set is scikit-learn's digits, enlarged to --image_size. If
the script is killed, start it again with the same flags: seeds that are done
are not run again, and with --num_tickets runs resume.
"""

import fractions
import os
import time
import warnings
from typing import Any

import array_data
import keras
import numpy as np
import run_directory
import tables
from absl import app
from absl import flags
from absl import logging
from keras import layers

import keras_freetickets as kft
from keras_freetickets import curation
from keras_freetickets import metrics
from keras_freetickets import resolution

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/interleaved", "Where all files go.")
flags.DEFINE_string(
    "dataset", "optdigits", "optdigits, or an image set of TFDS."
)
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_integer("num_examples", None, "Train on the first images only.", 1)
flags.DEFINE_integer("image_size", 64, "Height and width of images.", 4)
flags.DEFINE_integer("width", 16, "Filters of the first convolution.", 1)
flags.DEFINE_integer("blocks", 0, "Residual blocks of each stage.", 0)
flags.DEFINE_integer("epochs", 8, "Epochs of --steps_per_epoch.", 2)
flags.DEFINE_integer("steps_per_epoch", 20, "Steps of an epoch.", 1)
flags.DEFINE_integer("batch_size", 64, "Images of a batch.", 2)
flags.DEFINE_float("learning_rate", 4e-3, "The first one, of Adam.", 1e-9)
flags.DEFINE_enum(
    "schedule",
    "periodic",
    ["periodic", "bernoulli", "annealed"],
    "Which steps are reduced.",
)
flags.DEFINE_float("share", 0.4, "Share of all steps that are reduced.", 0, 1)
flags.DEFINE_float("until", 0.8, "Share after which all are full.", 0.01, 1)
flags.DEFINE_enum(
    "gain", "area", ["average", "area", "exact"], "Of pooled kernels."
)
flags.DEFINE_integer("num_tickets", 0, "Tickets of EDST; 0: one network.", 0)
flags.DEFINE_float("sparsity", 0.8, "Of tickets.", 0.0, 0.99)
flags.DEFINE_list("seeds", ["0"], "Seeds to run; the table is their mean.")
flags.DEFINE_integer("verbose", 0, "0, 1 or 2, as of Keras' fit.", 0, 2)

NAMES = ("full", "interleaved", "full, equal cost")
COLUMNS = (
    "steps",
    "seconds",
    "cpu_seconds",
    "accuracy",
    "nll",
    "ece",
    "ticket_accuracy",
)


def network(data: array_data.Arrays, seed: int) -> keras.Model:
    """A residual network that can train at both resolutions."""
    keras.utils.set_random_seed(seed)

    def convolution(x: Any, filters: int, strides: int = 1) -> Any:
        made = layers.Conv2D(
            filters, 3, strides=strides, padding="same", use_bias=False
        )
        return layers.BatchNormalization(momentum=0.9)(made(x))

    inputs = keras.Input(data.train[0].shape[1:])
    x = layers.ReLU()(convolution(inputs, FLAGS.width))
    for stage in (1, 2):
        filters = FLAGS.width * 2**stage
        x = layers.ReLU()(convolution(x, filters, strides=2))
        for _ in range(FLAGS.blocks):
            y = layers.ReLU()(convolution(x, filters))
            x = layers.ReLU()(layers.Add()([x, convolution(y, filters)]))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(data.num_classes, activation="softmax")(x)
    model = keras.Model(inputs, x)
    with run_directory.naming(f"--image_size={FLAGS.image_size}"):
        return resolution.reducible(model, FLAGS.gain)


def compile_model(model: keras.Model, steps: int | None = None) -> None:
    rate: Any = FLAGS.learning_rate
    if steps is not None:
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(rate), "categorical_crossentropy")


def chosen_schedule(seed: int) -> resolution.Schedule:
    """The schedule that has --share reduced steps."""
    within = FLAGS.share / FLAGS.until
    if FLAGS.schedule == "annealed":
        within *= 2
    if within > 1:
        raise SystemExit(
            f"--share={FLAGS.share} is more than --until={FLAGS.until} allows "
            f"with --schedule={FLAGS.schedule}"
        )
    if FLAGS.schedule == "annealed":
        return resolution.Annealed(within, FLAGS.until, seed)
    if FLAGS.schedule == "bernoulli":
        return resolution.Bernoulli(within, FLAGS.until, seed)
    part = fractions.Fraction(within).limit_denominator(20)
    return resolution.Periodic(part.numerator, part.denominator, FLAGS.until)


def batches_of(
    data: array_data.Arrays, seed: int, steps: int
) -> curation.MixedBatches:
    x, y = data.train
    return curation.MixedBatches(
        x,
        np.eye(data.num_classes)[y],
        batch_size=FLAGS.batch_size,
        steps_per_epoch=steps,
        seed=seed,
    )


def step_seconds(data: array_data.Arrays) -> tuple[float, float]:
    """Median seconds of a full and of a reduced step, which take turns."""
    model = network(data, 0)
    compile_model(model)
    watch = Stopwatch()
    turns = resolution.InterleavedResolution(resolution.Periodic(until=1.0))
    batches = batches_of(data, 0, 24)
    model.fit(batches, verbose=0, callbacks=[turns, watch])
    # The first ones compile.
    reduced, full = watch.seconds[4::2], watch.seconds[5::2]
    return float(np.median(full)), float(np.median(reduced))


class Stopwatch(keras.callbacks.Callback):
    """The seconds of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits for it
        self.seconds.append(time.perf_counter() - self._start)


def scores(
    data: array_data.Arrays, model: keras.Model, seconds: list[float]
) -> dict[str, Any]:
    x, y = data.test
    p = model.predict(x, verbose=0)
    nll = metrics.negative_log_likelihood(y, p)
    return {
        "seconds": sum(seconds[1:]),
        "accuracy": float(np.mean(p.argmax(-1) == y)),
        "nll": float(np.mean(nll)),
        "ece": float(metrics.expected_calibration_error(y, p)),
        "epoch_seconds": seconds,
    }


def train_networks(
    data: array_data.Arrays, seed: int, equal_steps: int
) -> dict[str, dict[str, Any]]:
    """The three trainings, an epoch of each in turns."""
    steps = dict.fromkeys(NAMES, FLAGS.steps_per_epoch)
    steps[NAMES[2]] = equal_steps
    models = {name: network(data, seed) for name in NAMES}
    for name, model in models.items():
        compile_model(model, steps[name] * FLAGS.epochs)
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    cpu: dict[str, list[float]] = {name: [] for name in NAMES}
    schedules: dict[str, resolution.Schedule] = {
        name: resolution.Periodic(0, 1) for name in NAMES
    }
    schedules[NAMES[1]] = chosen_schedule(seed)
    for epoch in range(FLAGS.epochs):
        for name, model in models.items():
            batches = batches_of(data, seed, steps[name])
            turn = resolution.InterleavedResolution(
                schedules[name], stop_epoch=FLAGS.epochs
            )
            start, cpu_start = time.perf_counter(), time.process_time()
            model.fit(
                batches,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=FLAGS.verbose,
                callbacks=[batches.epoch_order(), turn],
            )
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
        print(f"Seed {seed}: epoch {epoch + 1} of {FLAGS.epochs}", flush=True)
    return {
        name: scores(data, model, seconds[name])
        | {
            "steps": steps[name] * FLAGS.epochs,
            "cpu_seconds": sum(cpu[name][1:]),
        }
        for name, model in models.items()
    }


def train_tickets(
    data: array_data.Arrays, seed: int, equal_steps: int
) -> dict[str, dict[str, Any]]:
    """Three runs of EDST; the exploration may have reduced steps."""
    exploration = max(1, FLAGS.epochs // 2)
    rows = {}
    for name in NAMES:
        print(f"Seed {seed}: {name}", flush=True)
        fewer = name == NAMES[2]
        recipe = kft.recipes.EDST(
            sparsity=FLAGS.sparsity,
            num_members=FLAGS.num_tickets,
            exploration_epochs=exploration,
            refinement_epochs=max(1, FLAGS.epochs // 4),
            update_interval=FLAGS.steps_per_epoch,
            monitor=None,
        )
        schedule: resolution.Schedule = resolution.Periodic(0, 1)
        if name == NAMES[1]:
            schedule = chosen_schedule(seed)

        def arguments(
            run_seed: int,
            schedule: resolution.Schedule = schedule,
            fewer: bool = fewer,
        ) -> dict[str, Any]:
            own = batches_of(
                data, run_seed, equal_steps if fewer else FLAGS.steps_per_epoch
            )
            turn = resolution.InterleavedResolution(schedule, exploration)
            return {"x": own, "callbacks": [own.epoch_order(), turn]}

        folder = name.replace(", ", "_").replace(" ", "_")
        ensemble = recipe.fit(
            lambda run_seed: network(data, run_seed),
            compile_model,
            arguments,
            os.path.join(FLAGS.output_dir, f"seed_{seed}", folder),
            seed,
            FLAGS.verbose,
        )
        (run,) = recipe.runs
        rows[name] = scores(data, ensemble, run.history["seconds"])
        members = ensemble.predict_members(data.test[0])
        right = members.argmax(-1) == data.test[1]
        rows[name]["ticket_accuracy"] = float(right.mean())
        per_epoch = equal_steps if fewer else FLAGS.steps_per_epoch
        rows[name]["steps"] = per_epoch * len(run.history["seconds"])
    return rows


def equal_cost(full: float, reduced: float) -> int:
    """Full steps of an epoch that take as long as the interleaved ones."""
    share = FLAGS.share
    if FLAGS.num_tickets:  # of the exploration alone
        exploration = max(1, FLAGS.epochs // 2)
        refinement = FLAGS.num_tickets * max(1, FLAGS.epochs // 4)
        share *= exploration / (exploration + refinement)
    cost = 1 - share + share * reduced / full
    return max(1, round(FLAGS.steps_per_epoch * cost))


def report(found: list[dict[str, dict[str, Any]]]) -> str:
    """Mean and standard deviation over seeds, as a table."""
    heads = [key for key in COLUMNS if key in found[0][NAMES[0]]]
    lines = [["training", *heads, "seconds_of_full"]]
    for name in NAMES:
        cells = [name]
        for key in lines[0][1:]:
            values = [
                rows[name]["seconds"] / rows[NAMES[0]]["seconds"]
                if key == "seconds_of_full"
                else rows[name][key]
                for rows in found
            ]
            digits = {"steps": 0, "seconds": 1, "cpu_seconds": 1}.get(key, 4)
            mean, deviation = np.mean(values), np.std(values)
            cells.append(f"{mean:.{digits}f}±{deviation:.{digits}f}")
        lines.append(cells)
    return tables.aligned(lines)


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    # FLOPs are not asked for, and unknown for images of any size.
    warnings.filterwarnings("ignore", message="`training_flops`")
    config = run_directory.config()
    run_directory.check_directory(FLAGS.output_dir, config)
    chosen_schedule(0)
    side = FLAGS.image_size
    data = array_data.load(
        FLAGS.dataset,
        0,
        FLAGS.num_examples,
        image_size=(side, side),
    )
    run_directory.claim_directory(FLAGS.output_dir, config)
    path = os.path.join(FLAGS.output_dir, "step_seconds.json")
    seconds = run_directory.read_json(path)
    if seconds is None:
        seconds = step_seconds(data)
        run_directory.write_json(path, seconds)
    full, reduced = seconds
    print(f"A full step takes {full:.3f} s, a reduced one {reduced:.3f} s")
    train = train_tickets if FLAGS.num_tickets else train_networks
    fair = equal_cost(full, reduced)
    found = run_directory.rows_of_seeds(
        FLAGS.seeds, lambda seed: train(data, seed, fair)
    )
    run_directory.write_metrics({"step_seconds": seconds, "seeds": found})
    print(report(found))
    print(f"Files: {FLAGS.output_dir}")


if __name__ == "__main__":
    app.run(main)
