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
import recipes
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("method", "rigl", sorted(recipes.RECIPES), "The method.")
flags.DEFINE_integer("epochs", 25, "Epochs to train.", lower_bound=1)
flags.DEFINE_integer(
    "num_examples", None, "Train on the first images only.", lower_bound=1
)


def rate_of(epoch):
    """The compiled rate, a tenth of it from 1/2 and again from 3/4 on."""
    drops = (epoch >= FLAGS.epochs // 2) + (epoch >= FLAGS.epochs * 3 // 4)
    return FLAGS.learning_rate * 0.1**drops


def check_flags(recipe):
    """Says what is given and has no effect; refuses a growth of its own."""
    if FLAGS["growth"].present:
        raise SystemExit(
            f"--growth={FLAGS.growth} has no effect: --method={FLAGS.method} "
            "says how connections grow, --method=set at random"
        )
    for name in recipe.fixed:
        if FLAGS[name].present:
            print(
                f"--{name}={FLAGS[name].value} has no effect with "
                f"--method={FLAGS.method}."
            )


def plan(data, recipe):
    """The run that the flags ask for, if it does what the method is for."""
    steps = common.steps(data, FLAGS.epochs)
    changing = steps * 3 // 4
    run = recipes.Run(
        data,
        FLAGS.sparsity,
        FLAGS.epochs,
        steps,
        common.update_interval(changing),
        FLAGS.drop_fraction,
        FLAGS.seed,
    )
    if recipe.changes_topology:
        # At the last of them a drop fraction that falls has come to 0.
        name = "part of the run in which the topology changes"
        common.check_interval(run.interval, {name: changing - 1})
        print(
            f"Topology updates every {run.interval} optimizer updates, "
            f"of which the run has {steps}."
        )
    if abs(recipe.reaches(run) - run.sparsity) > 1e-9:
        print(
            f"--method={FLAGS.method} trains at sparsity "
            f"{recipe.reaches(run):g}, not at --sparsity={run.sparsity:g}."
        )
    return run


def train(data, recipe, run):
    """Returns the dense network, the trained sparse one and its logs."""
    import keras

    import keras_freetickets as kft

    classes = data.num_classes + recipe.unknown_class
    dense = common.network(data.input_shape, classes)
    arguments = {"distribution": FLAGS.distribution, **recipe.sparsify(run)}
    model = kft.sparsify(dense, seed=FLAGS.seed, **arguments)
    kft.sparsity_summary(model)
    common.compile_model(model)
    schedule = keras.callbacks.LearningRateScheduler(rate_of)
    cost = kft.callbacks.TrainingCost(recipe.cost_of(run.interval))
    callbacks = [cost, schedule, *recipe.callbacks(run)]
    common.claim_directory(FLAGS.output_dir, common.config())
    history = common.fit(model, data, FLAGS.epochs, callbacks, "backup")
    return dense, model, history


def train_flops(dense, history):
    """Theoretical FLOPs of the training, relative to the dense network's."""
    from keras_freetickets.metrics import flops

    spent = history["training_flops"]
    return sum(spent) / (3.0 * flops.forward_flops(dense) * len(spent))


def row_of(dense, model, data, recipe, history):
    """Scores and costs, under the name of what has happened."""
    topology = common.of_topology(model)
    if recipe.changes_topology and not topology["updates"]:
        raise SystemExit(
            f"--method={FLAGS.method} has made no topology update: were the "
            "gradients finite? There is no row for it."
        )
    probabilities = model.predict(data.test, verbose=0)
    labels = common.labels_of(data.test)
    return {
        "model": FLAGS.method,
        **common.scores(probabilities, labels, data.num_classes),
        **topology,
        "parameters": common.active_parameters(model),
        "inference_flops": common.relative_flops(dense, model),
        "train_flops": train_flops(dense, history),
        "seconds": sum(history["seconds"]),
    }


def main(argv):
    common.no_arguments(argv)
    recipe = recipes.RECIPES[FLAGS.method]
    check_flags(recipe)
    common.check_directory(FLAGS.output_dir, common.config())
    data = common.load(num_examples=FLAGS.num_examples)
    run = plan(data, recipe)
    dense, model, history = train(data, recipe, run)
    row = row_of(dense, model, data, recipe, history)
    common.save(model, os.path.join(FLAGS.output_dir, "model.keras"))
    common.finish([row], history, common.config())


if __name__ == "__main__":
    common.define_training_flags("runs/sparse")
    flags.adopt_module_key_flags(common)
    app.run(main)
