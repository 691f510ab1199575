r"""Trains a dense network and a FreeTickets ensemble on handwritten digits.

The digits are part of scikit-learn (8x8 pixels, 10 classes), so nothing is
downloaded. If the run is killed, start it again: it resumes and ends with the
same result. Started after its end, it prints the table again.

    python examples/demo.py --output_dir=runs/demo
"""

import os

import costs
import ensemble_rows
import keras
import results
import run_directory
import training
import training_flags
from absl import app
from absl import flags
from absl import logging

import keras_freetickets as kft

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/demo", "Where all files go.")
flags.DEFINE_integer(
    "exploration_epochs", 24, "Epochs at the full learning rate.", lower_bound=1
)
flags.DEFINE_integer(
    "refinement_epochs", 16, "Epochs of each refinement.", lower_bound=1
)
flags.DEFINE_integer(
    "dense_epochs", 40, "Epochs of the dense reference.", lower_bound=1
)
flags.DEFINE_integer("num_tickets", 3, "Number of tickets.", lower_bound=1)
flags.DEFINE_float("sparsity", 0.8, "Fraction of weights removed.", 0.0, 0.999)
flags.DEFINE_float(
    "learning_rate", 0.05, "Learning rate of SGD.", lower_bound=1e-9
)
flags.DEFINE_integer(
    "update_interval",
    20,
    "Optimizer updates between topology updates.",
    lower_bound=1,
)
flags.DEFINE_string("data_dir", None, "Where the prepared digits are.")


def path(*parts: str) -> str:
    return os.path.join(FLAGS.output_dir, *parts)


def build(data: kft.datasets.Datasets) -> keras.Model:
    keras.utils.set_random_seed(FLAGS.seed)
    return kft.applications.small_cnn(
        data.input_shape, data.num_classes, weight_decay=2.5e-4
    )


def compile_model(model: keras.Model) -> None:
    model.compile(
        keras.optimizers.SGD(FLAGS.learning_rate, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def train_dense(
    data: kft.datasets.Datasets,
) -> tuple[keras.Model, training.History]:
    """The reference: a tenth of the rate from 1/2 on, again from 3/4."""
    model = build(data)
    compile_model(model)
    schedule = training.step_decay(FLAGS.dense_epochs)
    callbacks = [costs.training_cost(), schedule]
    folder = os.path.join("backup", "dense")
    history = training.fit(model, data, FLAGS.dense_epochs, callbacks, folder)
    model.save(path("dense.keras"))
    return model, history


def train_tickets(
    data: kft.datasets.Datasets,
) -> tuple[kft.callbacks.EDST, training.History]:
    """One EDST run."""
    model = kft.sparsify(build(data), FLAGS.sparsity, seed=FLAGS.seed)
    kft.sparsity_summary(model)
    compile_model(model)
    edst = kft.callbacks.EDST(
        exploration_epochs=FLAGS.exploration_epochs,
        refinement_epochs=FLAGS.refinement_epochs,
        num_tickets=FLAGS.num_tickets,
        update_interval=FLAGS.update_interval,
        # The accuracy on 143 validation images soon stays at 1.
        monitor="val_loss",
        directory=path("tickets"),
        seed=FLAGS.seed,
    )
    cost = costs.training_cost("gradient", FLAGS.update_interval)
    folder = os.path.join("backup", "edst")
    history = training.fit(model, data, edst.epochs, [cost, edst], folder)
    return edst, history


def report(
    data: kft.datasets.Datasets,
    dense: keras.Model,
    dense_history: training.History,
    edst: kft.callbacks.EDST,
    history: training.History,
) -> list[results.Row]:
    """Scores all models on the test images; writes files and pictures."""

    def cost_of(
        model: keras.Model, epochs: int, growth: str | None = "gradient"
    ) -> dict[str, float]:
        interval = FLAGS.update_interval
        return costs.costs(
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
    rows = ensemble_rows.edst_rows(
        edst, ensemble, data, cost_of, history["seconds"]
    )
    tickets = edst.store.read().values()
    for row, entry in zip(rows[:-1], tickets, strict=True):
        row["epoch"] = entry["epoch"] + 1
    results.write_ensemble(ensemble)
    ticket = ensemble.member(0)
    results.draw(predictions, labels, ticket, edst, history, dense_history)
    return [reference, *rows]


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    config = run_directory.config()
    run_directory.check_directory(FLAGS.output_dir, config)
    done = run_directory.read_json(path("metrics.json"))
    if done is not None:
        results.show(done["rows"])
        return
    data = kft.datasets.load(
        "optdigits",
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
        data_dir=FLAGS.data_dir,
    )
    if FLAGS.sparsity:
        phases = {
            "exploration": training.steps(
                data.num_train, FLAGS.exploration_epochs
            ),
            "refinement": training.steps(
                data.num_train, FLAGS.refinement_epochs
            ),
        }
        training_flags.check_interval(FLAGS.update_interval, phases)
    run_directory.claim_directory(FLAGS.output_dir, config)
    print("Dense reference", flush=True)
    dense, dense_history = train_dense(data)
    print("EDST: exploration and refinements", flush=True)
    edst, history = train_tickets(data)
    rows = report(data, dense, dense_history, edst, history)
    results.finish(rows, {"dense": dense_history, "edst": history}, config)


if __name__ == "__main__":
    FLAGS.set_default("batch_size", 32)
    flags.adopt_module_key_flags(training_flags)
    app.run(main)
