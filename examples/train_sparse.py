r"""Trains one sparse network with a method of the family.

    python examples/train_sparse.py --method=rigl --sparsity=0.9
    python examples/train_sparse.py --method=dst_ee --dataset=fashion_mnist \
        --data_dir=../shared/tfds --epochs=10

--method=dense trains the dense reference, --method=static a mask that never
changes. The table says how sparse the network is at the end and how often its
topology was updated. The spiking networks, --model=spiking_cnn, spiking_vgg16
and spiking_resnet19, were made for --method=ndsnn, but take any. Killed and
started again with the same flags, a run goes on where it was.
"""

import os

import common
import results
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("method", "rigl", common.SPARSE_TRAININGS, "The method.")
flags.DEFINE_integer("epochs", 25, "Epochs to train.", lower_bound=1)
flags.DEFINE_integer(
    "num_examples", None, "Train on the first images only.", lower_bound=1
)


def plan(data):
    """The settings of the method, if it does what the flags ask for."""
    import keras_freetickets as kft

    if FLAGS["growth"].present:
        raise SystemExit(
            f"--growth={FLAGS.growth} has no effect: --method={FLAGS.method} "
            "says how connections grow, --method=set at random"
        )
    training = kft.recipes.sparse_training(
        FLAGS.method,
        FLAGS.sparsity,
        FLAGS.epochs,
        common.steps(data, 1),
        data.train,
        FLAGS.update_interval,
        FLAGS.drop_fraction,
        FLAGS.seed,
    )
    for name in training.unused:
        if FLAGS[name].present:
            print(
                f"--{name}={FLAGS[name].value} has no effect with "
                f"--method={FLAGS.method}."
            )
    if training.changes_topology:
        steps = common.steps(data, FLAGS.epochs)
        # At the last of them a drop fraction that falls has come to 0.
        name = "part of the run in which the topology changes"
        changing = {name: steps * 3 // 4 - 1}
        common.check_interval(training.update_interval, changing)
        print(
            f"Topology updates every {training.update_interval} optimizer "
            f"updates, of which the run has {steps}."
        )
    if abs(training.sparsity - FLAGS.sparsity) > 1e-9:
        print(
            f"--method={FLAGS.method} trains at sparsity "
            f"{training.sparsity:g}, not at --sparsity={FLAGS.sparsity:g}."
        )
    return training


def train(data, training):
    """Returns the dense network, the trained sparse one and its logs."""
    import keras_freetickets as kft

    classes = data.num_classes + training.extra_outputs
    dense = common.network(data.input_shape, classes)
    arguments = {
        "distribution": FLAGS.distribution,
        **training.sparsify_arguments,
    }
    model = kft.sparsify(dense, seed=FLAGS.seed, **arguments)
    kft.sparsity_summary(model)
    common.compile_model(model)
    common.claim_directory(FLAGS.output_dir, common.config())
    callbacks = [common.step_decay(FLAGS.epochs), *training.callbacks]
    history = common.fit(model, data, FLAGS.epochs, callbacks, "backup")
    return dense, model, history


def train_flops(dense, history):
    """Theoretical FLOPs of the training, relative to the dense network's."""
    from keras_freetickets.metrics import flops

    spent = history["training_flops"]
    return sum(spent) / (3.0 * flops.forward_flops(dense) * len(spent))


def row_of(dense, model, data, history):
    """Scores and costs, under the name of what has happened."""
    probabilities = model.predict(data.test, verbose=0)
    labels = results.labels_of(data.test)
    return {
        "model": FLAGS.method,
        **results.scores(probabilities, labels, data.num_classes),
        **results.of_topology(model),
        "parameters": results.active_parameters(model),
        "inference_flops": results.relative_flops(dense, model),
        "train_flops": train_flops(dense, history),
        "seconds": sum(history["seconds"]),
    }


def main(argv):
    common.no_arguments(argv)
    common.check_directory(FLAGS.output_dir, common.config())
    data = common.load(num_examples=FLAGS.num_examples)
    training = plan(data)
    dense, model, history = train(data, training)
    row = row_of(dense, model, data, history)
    if training.changes_topology and not row["updates"]:
        raise SystemExit(
            f"--method={FLAGS.method} has made no topology update: were the "
            "gradients finite? There is no row for it."
        )
    model.save(os.path.join(FLAGS.output_dir, "model.keras"))
    results.finish([row], history, common.config())


if __name__ == "__main__":
    common.define_training_flags("runs/sparse")
    flags.adopt_module_key_flags(common)
    app.run(main)
