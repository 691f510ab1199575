r"""Trains an EDST ensemble on an image-classification dataset of TFDS.

One run: exploration at the full learning rate, then --num_tickets
refinements, each of which yields a ticket. The tickets, the ensemble (also as
a SavedModel), pictures and `metrics.json` go to --output_dir. If the run is
killed, start it again with the same flags: it resumes. train_dst.py
--sparsity=0 trains a dense reference.

    python examples/train_edst.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --exploration_epochs=6 \
        --refinement_epochs=4 --output_dir=runs/fashion

The paper's recipe for CIFAR and WRN-28-10 (450 epochs, needs a GPU), and what
it costs, without training:

    python examples/train_edst.py --preset=cifar --dataset=cifar10
    python examples/train_edst.py --preset=cifar --dry_run

Flags that are given override the preset.
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

import keras_freetickets as kft

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "preset", None, ["cifar"], "Use the values of a published recipe."
)
flags.DEFINE_integer(
    "exploration_epochs", 15, "Epochs at the full learning rate.", lower_bound=1
)
flags.DEFINE_integer(
    "refinement_epochs", 10, "Epochs of each refinement.", lower_bound=1
)
flags.DEFINE_integer("num_tickets", 3, "Number of tickets.", lower_bound=1)
flags.DEFINE_float(
    "global_drop_fraction",
    0.8,
    "Fraction of connections replaced between refinements.",
    1e-9,
    1.0,
)
flags.DEFINE_string(
    "monitor",
    "val_accuracy",
    "Epoch log whose best value selects the epoch of each ticket; empty: the "
    "last epoch.",
)
flags.DEFINE_bool(
    "dry_run", False, "Print the sparsity table and the cost; do not train."
)
flags.DEFINE_integer(
    "reference_epochs",
    None,
    "Epochs of the dense model that costs are relative to. Default: those of "
    "exploration and one refinement.",
    lower_bound=1,
)

# FreeTickets on CIFAR, from VITA-Group/FreeTickets (main_EDST.py).
_CIFAR = {
    "dataset": "cifar10",
    "model": "wide_resnet",
    "sparsity": 0.8,
    "distribution": "erk",
    "exploration_epochs": 150,
    "refinement_epochs": 100,
    "reference_epochs": 250,
    "num_tickets": 3,
    "update_interval": 1000,
    "drop_fraction": 0.5,
    "global_drop_fraction": 0.8,
    "growth": "gradient",
    "batch_size": 128,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 2.5e-4,
}


def apply_preset() -> None:
    if FLAGS.preset == "cifar":
        for name, value in _CIFAR.items():
            FLAGS.set_default(name, value)
    if FLAGS.reference_epochs is None:
        epochs = FLAGS.exploration_epochs + FLAGS.refinement_epochs
        FLAGS.set_default("reference_epochs", epochs)


def update_interval(steps_per_epoch: int) -> int:
    """The interval; refused if a phase would have no topology update."""
    phases = {
        "exploration": steps_per_epoch * FLAGS.exploration_epochs,
        "refinement": steps_per_epoch * FLAGS.refinement_epochs,
    }
    interval = training_flags.update_interval(phases["exploration"])
    if FLAGS.sparsity:
        training_flags.check_interval(interval, phases)
        print(
            f"Topology updates every {interval} optimizer updates: the "
            f"exploration has {phases['exploration']}, a refinement "
            f"{phases['refinement']}."
        )
    return interval


def total_epochs() -> int:
    refinements = FLAGS.num_tickets * FLAGS.refinement_epochs
    return FLAGS.exploration_epochs + refinements


def dry_run() -> None:
    """Prints densities and theoretical costs; needs no data."""
    shape, classes, num_train = training.known_shape(FLAGS.dataset)
    interval = update_interval(training.steps(num_train))
    dense, model = training.sparse_network(
        shape, classes, sparsity=FLAGS.sparsity
    )
    cost = costs.flag_costs(dense, model, total_epochs(), interval)
    print(f"MAC ratio: {cost['inference_flops']:.4f}")
    print(
        f"Training cost of {FLAGS.num_tickets} tickets in {total_epochs()} "
        f"epochs: {cost['mac_cost']:.2f}x one dense model of "
        f"{FLAGS.reference_epochs} epochs (epochs x MAC ratio); "
        f"{cost['train_flops']:.4f}x with the dense gradients of the updates"
    )


def train(
    data: kft.datasets.Datasets, interval: int
) -> tuple[keras.Model, kft.callbacks.EDST, training.History]:
    """Returns the dense network, the callback and the logs."""
    dense, model = training.sparse_network(
        data.input_shape, data.num_classes, sparsity=FLAGS.sparsity
    )
    training.compile_model(model)
    edst = kft.callbacks.EDST(
        exploration_epochs=FLAGS.exploration_epochs,
        refinement_epochs=FLAGS.refinement_epochs,
        num_tickets=FLAGS.num_tickets,
        global_drop_fraction=FLAGS.global_drop_fraction,
        growth=FLAGS.growth,
        update_interval=interval,
        drop_fraction=FLAGS.drop_fraction,
        monitor=FLAGS.monitor or None,
        directory=os.path.join(FLAGS.output_dir, "tickets"),
        seed=FLAGS.seed,
    )
    run_directory.claim_directory(FLAGS.output_dir, run_directory.config())
    callbacks = [costs.training_cost(FLAGS.growth, interval), edst]
    history = training.fit(model, data, edst.epochs, callbacks, "backup")
    return dense, edst, history


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    apply_preset()
    if FLAGS.dry_run:
        dry_run()
        return
    run_directory.check_directory(FLAGS.output_dir, run_directory.config())
    data = training.load()
    interval = update_interval(training.steps(data.num_train))
    dense, edst, history = train(data, interval)
    ensemble = edst.ensemble()
    rows = ensemble_rows.edst_rows(
        edst,
        ensemble,
        data,
        lambda model, epochs: costs.flag_costs(dense, model, epochs, interval),
        history["seconds"],
    )
    results.write_ensemble(ensemble)
    predictions = {"ensemble": ensemble.predict(data.test, verbose=0)}
    labels = results.labels_of(data.test)
    results.draw(predictions, labels, ensemble.member(0), edst, history)
    results.finish(rows, history, run_directory.config())


if __name__ == "__main__":
    training_flags.define("runs/edst")
    training_flags.define_storage()
    flags.adopt_module_key_flags(training_flags)
    app.run(main)
