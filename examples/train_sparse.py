r"""Trains one sparse network.

    python examples/train_sparse.py --method=rigl --sparsity=0.9
    python examples/train_sparse.py --method=dst_ee --dataset=fashion_mnist \
        --data_dir=../shared/tfds --epochs=10

--method=dense trains the dense reference, --method=static masks that never
change. The table shows how sparse the network is at the end and how often its
topology was updated. The spiking networks (--model=spiking_cnn, spiking_vgg16
and spiking_resnet19) were made for --method=ndsnn, but any method trains them.
If a run is killed, start it again with the same flags: it resumes.
"""

import os
from typing import Any

import costs
import keras
import results
import run_directory
import training
import training_flags
from absl import app
from absl import flags

import keras_freetickets as kft
from keras_freetickets.metrics import flops

FLAGS = flags.FLAGS
flags.DEFINE_enum("method", "rigl", kft.recipes.SPARSE_TRAININGS, "The method.")
flags.DEFINE_integer("epochs", 25, "Epochs to train.", lower_bound=1)
flags.DEFINE_integer(
    "num_examples", None, "Train on the first images only.", lower_bound=1
)


def plan(data: kft.datasets.Datasets) -> kft.recipes.SparseTraining:
    """The settings of the method; says which flags it does not follow."""
    if FLAGS["growth"].present:
        raise SystemExit(
            f"--growth={FLAGS.growth} has no effect: --method={FLAGS.method} "
            "decides how connections grow; --method=set grows them at random"
        )
    with run_directory.naming(f"--method={FLAGS.method}"):
        setting = kft.recipes.sparse_training(
            FLAGS.method,
            FLAGS.sparsity,
            FLAGS.epochs,
            training.steps(data.num_train),
            data.train,
            FLAGS.update_interval,
            FLAGS.drop_fraction,
            FLAGS.seed,
        )
    for name in setting.unused:
        if FLAGS[name].present:
            print(
                f"--{name}={FLAGS[name].value} has no effect with "
                f"--method={FLAGS.method}."
            )
    if setting.changes_topology:
        steps = training.steps(data.num_train, FLAGS.epochs)
        # At its last step a decaying drop fraction is 0.
        name = "part of the run in which the topology changes"
        changing = {name: steps * 3 // 4 - 1}
        training_flags.check_interval(setting.update_interval, changing)
        print(
            f"Topology updates every {setting.update_interval} optimizer "
            f"updates, of which the run has {steps}."
        )
    if abs(setting.sparsity - FLAGS.sparsity) > 1e-9:
        print(
            f"--method={FLAGS.method} trains at sparsity "
            f"{setting.sparsity:g}, not at --sparsity={FLAGS.sparsity:g}."
        )
    return setting


def train(
    data: kft.datasets.Datasets, setting: kft.recipes.SparseTraining
) -> tuple[keras.Model, kft.SparseModel, training.History]:
    """Returns the dense network, the trained sparse one and its logs."""
    classes = data.num_classes + setting.extra_outputs
    dense, model = training.sparse_network(
        data.input_shape, classes, **setting.sparsify_arguments
    )
    training.compile_model(model)
    run_directory.claim_directory(FLAGS.output_dir, run_directory.config())
    callbacks = [training.step_decay(FLAGS.epochs), *setting.callbacks]
    history = training.fit(model, data, FLAGS.epochs, callbacks, "backup")
    return dense, model, history


def train_flops(dense: keras.Model, history: training.History) -> float:
    """Theoretical FLOPs of the training, relative to the dense network's."""
    spent = history["training_flops"]
    return sum(spent) / (3.0 * flops.forward_flops(dense) * len(spent))


def row_of(
    dense: keras.Model,
    model: kft.SparseModel,
    data: kft.datasets.Datasets,
    history: training.History,
) -> dict[str, Any]:
    """The row of the table: scores and costs."""
    probabilities = model.predict(data.test, verbose=0)
    labels = results.labels_of(data.test)
    return {
        "model": FLAGS.method,
        **results.scores(probabilities, labels, data.num_classes),
        **costs.of_topology(model),
        "parameters": costs.active_parameters(model),
        "inference_flops": costs.relative_flops(dense, model),
        "train_flops": train_flops(dense, history),
        "seconds": sum(history["seconds"]),
    }


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    run_directory.check_directory(FLAGS.output_dir, run_directory.config())
    data = training.load(num_examples=FLAGS.num_examples)
    setting = plan(data)
    dense, model, history = train(data, setting)
    row = row_of(dense, model, data, history)
    if setting.changes_topology and not row["updates"]:
        raise SystemExit(
            f"--method={FLAGS.method} made no topology update. Were the "
            "gradients finite? No results are written."
        )
    model.save(os.path.join(FLAGS.output_dir, "model.keras"))
    results.finish([row], history, run_directory.config())


if __name__ == "__main__":
    training_flags.define("runs/sparse")
    training_flags.define_storage()
    flags.adopt_module_key_flags(training_flags)
    app.run(main)
