r"""Trains a dense network and a FreeTickets ensemble on handwritten digits.

The digits are those that scikit-learn carries (8x8 pixels, 10 classes), so
nothing is downloaded. Started again after a kill, it goes on where it was and
ends with the same result; started again after the end, it prints the table.

    python examples/demo.py --output_dir=runs/demo
"""

import os

import common
import results
from absl import app
from absl import flags
from absl import logging

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/demo", "Where everything goes.")
flags.DEFINE_integer(
    "exploration_epochs", 24, "Epochs at the full rate.", lower_bound=1
)
flags.DEFINE_integer(
    "refinement_epochs", 16, "Epochs of each refinement.", lower_bound=1
)
flags.DEFINE_integer(
    "dense_epochs", 40, "Epochs of the dense reference.", lower_bound=1
)
flags.DEFINE_integer("num_tickets", 3, "Members.", lower_bound=1)
flags.DEFINE_float("sparsity", 0.8, "Share of weights removed.", 0.0, 0.999)
flags.DEFINE_float("learning_rate", 0.05, "Rate of SGD.", lower_bound=1e-9)
flags.DEFINE_integer(
    "update_interval", 20, "Optimizer updates between drops.", lower_bound=1
)
flags.DEFINE_string("data_dir", None, "Where the digits are prepared.")

_CONFIG = (
    "exploration_epochs",
    "refinement_epochs",
    "dense_epochs",
    "num_tickets",
    "sparsity",
    "learning_rate",
    "update_interval",
    "seed",
    "batch_size",
)


def path(*parts):
    return os.path.join(FLAGS.output_dir, *parts)


def build(data):
    import keras

    import keras_freetickets as kft

    keras.utils.set_random_seed(FLAGS.seed)
    return kft.applications.small_cnn(
        data.input_shape, data.num_classes, weight_decay=2.5e-4
    )


def compile_model(model):
    import keras

    model.compile(
        keras.optimizers.SGD(FLAGS.learning_rate, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def train_dense(data):
    """The reference: half the epochs at the rate, then tenths of it."""
    model = build(data)
    compile_model(model)
    schedule = common.step_decay(FLAGS.dense_epochs)
    callbacks = [results.training_cost(None, None), schedule]
    folder = os.path.join("backup", "dense")
    history = common.fit(model, data, FLAGS.dense_epochs, callbacks, folder)
    model.save(path("dense.keras"))
    return model, history


def train_tickets(data):
    import keras_freetickets as kft

    model = kft.sparsify(build(data), FLAGS.sparsity, seed=FLAGS.seed)
    kft.sparsity_summary(model)
    compile_model(model)
    edst = kft.callbacks.EDST(
        exploration_epochs=FLAGS.exploration_epochs,
        refinement_epochs=FLAGS.refinement_epochs,
        num_tickets=FLAGS.num_tickets,
        update_interval=FLAGS.update_interval,
        # Accuracy on 143 validation images is soon 1 for all epochs.
        monitor="val_loss",
        directory=path("tickets"),
        seed=FLAGS.seed,
    )
    cost = results.training_cost("gradient", FLAGS.update_interval)
    folder = os.path.join("backup", "edst")
    history = common.fit(model, data, edst.epochs, [cost, edst], folder)
    return edst, history


def report(data, dense, dense_history, edst, history):
    """Scores everything on the test images; writes files and pictures."""

    def cost_of(model, epochs, growth="gradient"):
        interval = FLAGS.update_interval
        return results.costs(
            dense, model, epochs, FLAGS.dense_epochs, growth, interval
        )

    labels = results.labels_of(data.test)
    ensemble = edst.ensemble()
    predictions = {
        "dense": dense.predict(data.test, verbose=0),
        "ensemble": ensemble.predict(data.test, verbose=0),
    }
    reference = {
        "model": "dense",
        **results.scores(predictions["dense"], labels),
        **cost_of(dense, FLAGS.dense_epochs, growth=None),
        "seconds": sum(dense_history["seconds"]),
    }
    ends = [phase.stop_epoch for phase in edst.phases[1:]]
    rows = results.member_rows(
        ensemble, data, ends, history["seconds"], cost_of
    )
    tickets = edst.store.read().values()
    for row, entry in zip(rows[:-1], tickets, strict=True):
        row["epoch"] = entry["epoch"] + 1
    results.write_ensemble(ensemble)
    results.draw(predictions, labels, ensemble, edst, history, dense_history)
    return [reference, *rows]


def main(argv):
    common.no_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    config = {name: getattr(FLAGS, name) for name in _CONFIG}
    common.check_directory(FLAGS.output_dir, config)
    done = common.read_json(path("metrics.json"))
    if done is not None:
        print(results.table(done["rows"]))
        print(f"Files: {FLAGS.output_dir}")
        return
    import keras_freetickets as kft

    data = kft.datasets.load(
        "optdigits",
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
        data_dir=FLAGS.data_dir,
    )
    if FLAGS.sparsity:
        phases = {
            "exploration": common.steps(data, FLAGS.exploration_epochs),
            "refinement": common.steps(data, FLAGS.refinement_epochs),
        }
        common.check_interval(FLAGS.update_interval, phases)
    common.claim_directory(FLAGS.output_dir, config)
    print("Dense reference", flush=True)
    dense, dense_history = train_dense(data)
    print("EDST: exploration and refinements", flush=True)
    edst, history = train_tickets(data)
    rows = report(data, dense, dense_history, edst, history)
    results.finish(rows, {"dense": dense_history, "edst": history}, config)


if __name__ == "__main__":
    flags.FLAGS.set_default("batch_size", 32)
    flags.adopt_module_key_flags(common)
    app.run(main)
