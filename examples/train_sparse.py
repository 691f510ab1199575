r"""Trains one sparse network with a method of the family.

    python examples/train_sparse.py --method=rigl --sparsity=0.9
    python examples/train_sparse.py --method=dst_ee --dataset=fashion_mnist \
        --data_dir=../shared/tfds --epochs=10

--method=dense trains the dense reference, --method=static a mask that never
changes. The spiking networks, --model=spiking_cnn, spiking_vgg16 and
spiking_resnet19, were made for --method=ndsnn, but take any. Killed and
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
    cost = kft.callbacks.TrainingCost(recipe.cost_of(FLAGS.update_interval))
    callbacks = [cost, schedule, *recipe.callbacks(run)]
    common.claim_directory(FLAGS.output_dir, common.config())
    history = common.fit(model, data, FLAGS.epochs, callbacks, "backup")
    return dense, model, history


def train_flops(dense, history):
    """Theoretical FLOPs of the training, relative to the dense network's."""
    from keras_freetickets.metrics import flops

    spent = history["training_flops"]
    return sum(spent) / (3.0 * flops.forward_flops(dense) * len(spent))


def main(argv):
    common.no_arguments(argv)
    common.check_directory(FLAGS.output_dir, common.config())
    data = common.load(num_examples=FLAGS.num_examples)
    recipe = recipes.RECIPES[FLAGS.method]
    steps = -(-data.num_train // FLAGS.batch_size) * FLAGS.epochs
    run = recipes.Run(
        data,
        FLAGS.sparsity,
        FLAGS.epochs,
        steps,
        FLAGS.update_interval,
        FLAGS.drop_fraction,
        FLAGS.seed,
    )
    dense, model, history = train(data, recipe, run)
    labels = common.labels_of(data.test)
    probabilities = model.predict(data.test, verbose=0)
    row = {
        "model": FLAGS.method,
        **common.scores(probabilities, labels, data.num_classes),
        "parameters": common.active_parameters(model),
        "inference_flops": common.relative_flops(dense, model),
        "train_flops": train_flops(dense, history),
        "seconds": sum(history["seconds"]),
    }
    common.save(model, os.path.join(FLAGS.output_dir, "model.keras"))
    common.finish([row], history, common.config())


if __name__ == "__main__":
    common.define_training_flags("runs/sparse")
    flags.adopt_module_key_flags(common)
    app.run(main)
