r"""Trains an EDST ensemble on an image-classification set of TFDS.

One run: exploration at the full learning rate, then `num_tickets`
refinements, each of which yields a ticket. The tickets, the ensemble (also as
a SavedModel), pictures and `metrics.json` go to --output_dir. Killed and
started again with the same flags, it goes on where it was. A dense reference
is trained by train_dst.py --sparsity=0.

    python examples/train_edst.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --exploration_epochs=6 \
        --refinement_epochs=4 --output_dir=runs/fashion

The recipe of the paper for CIFAR, WRN-28-10 (450 epochs, a GPU's work), and
what it would cost, without training:

    python examples/train_edst.py --preset=cifar --dataset=cifar10
    python examples/train_edst.py --preset=cifar --dry_run

A flag that is given wins over the preset.
"""

import os

import common
import results
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("preset", None, ["cifar"], "Defaults of a published recipe.")
flags.DEFINE_integer(
    "exploration_epochs", 15, "Epochs at the full rate.", lower_bound=1
)
flags.DEFINE_integer(
    "refinement_epochs", 10, "Epochs of each refinement.", lower_bound=1
)
flags.DEFINE_integer("num_tickets", 3, "Members.", lower_bound=1)
flags.DEFINE_float(
    "global_drop_fraction",
    0.8,
    "Share of connections replaced between refinements.",
    1e-9,
    1.0,
)
flags.DEFINE_string(
    "monitor",
    "val_accuracy",
    "Epoch log whose best value chooses each ticket; empty: its last epoch.",
)
flags.DEFINE_bool(
    "dry_run", False, "Print the sparsity table and the cost; do not train."
)
flags.DEFINE_integer(
    "reference_epochs",
    None,
    "Epochs of the dense model that costs are relative to. Default: as many "
    "as one ticket needs, exploration and one refinement.",
    lower_bound=1,
)

# methods: FreeTickets on CIFAR, from VITA-Group/FreeTickets (main_EDST.py).
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


def apply_preset():
    if FLAGS.preset == "cifar":
        for name, value in _CIFAR.items():
            FLAGS.set_default(name, value)
    if FLAGS.reference_epochs is None:
        epochs = FLAGS.exploration_epochs + FLAGS.refinement_epochs
        FLAGS.set_default("reference_epochs", epochs)


def update_interval(steps_per_epoch):
    """The interval, once each phase is known to have an update."""
    phases = {
        "exploration": steps_per_epoch * FLAGS.exploration_epochs,
        "refinement": steps_per_epoch * FLAGS.refinement_epochs,
    }
    interval = common.update_interval(phases["exploration"])
    if FLAGS.sparsity:
        common.check_interval(interval, phases)
        print(
            f"Topology updates every {interval} optimizer updates: the "
            f"exploration has {phases['exploration']}, a refinement "
            f"{phases['refinement']}."
        )
    return interval


def total_epochs():
    refinements = FLAGS.num_tickets * FLAGS.refinement_epochs
    return FLAGS.exploration_epochs + refinements


def dry_run():
    """Prints densities and theoretical cost; needs no data."""
    import keras_freetickets as kft

    shape, classes, num_train = common.known_shape(FLAGS.dataset)
    interval = update_interval(-(-num_train // FLAGS.batch_size))
    dense = common.network(shape, classes)
    model = kft.sparsify(
        dense, FLAGS.sparsity, FLAGS.distribution, seed=FLAGS.seed
    )
    kft.sparsity_summary(model)
    cost = results.flag_costs(dense, model, total_epochs(), interval)
    print(f"MAC ratio: {cost['inference_flops']:.4f}")
    print(
        f"Training cost of {FLAGS.num_tickets} tickets in {total_epochs()} "
        f"epochs: {cost['mac_cost']:.2f}x one dense model of "
        f"{FLAGS.reference_epochs} epochs (epochs x MAC ratio); "
        f"{cost['train_flops']:.4f}x with the dense gradients of the updates"
    )


def train(data, interval):
    import keras_freetickets as kft

    dense = common.network(data.input_shape, data.num_classes)
    model = kft.sparsify(
        dense, FLAGS.sparsity, FLAGS.distribution, seed=FLAGS.seed
    )
    kft.sparsity_summary(model)
    common.compile_model(model)
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
    common.claim_directory(FLAGS.output_dir, common.config())
    cost = results.training_cost(FLAGS.growth, interval)
    history = common.fit(model, data, edst.epochs, [cost, edst], "backup")
    return dense, edst, history


def main(argv):
    common.no_arguments(argv)
    apply_preset()
    if FLAGS.dry_run:
        dry_run()
        return
    common.check_directory(FLAGS.output_dir, common.config())
    data = common.load()
    interval = update_interval(common.steps(data, 1))
    dense, edst, history = train(data, interval)
    ensemble = edst.ensemble()
    rows = results.member_rows(
        ensemble,
        data,
        [phase.stop_epoch for phase in edst.phases[1:]],
        history["seconds"],
        lambda model, epochs: results.flag_costs(
            dense, model, epochs, interval
        ),
    )
    results.write_ensemble(ensemble)
    predictions = {"ensemble": ensemble.predict(data.test, verbose=0)}
    labels = results.labels_of(data.test)
    results.draw(predictions, labels, ensemble, edst, history)
    results.finish(rows, history, common.config())


if __name__ == "__main__":
    common.define_training_flags("runs/edst")
    flags.adopt_module_key_flags(common)
    app.run(main)
