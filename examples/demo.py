r"""Trains a dense network and a FreeTickets ensemble on handwritten digits.

The digits are those that scikit-learn carries (8x8 pixels, 10 classes), so
nothing is downloaded. Started again after a kill, it goes on where it was and
ends with the same result; started again after the end, it prints the table.

    python examples/demo.py --output_dir=runs/demo
"""

import os

import common
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


def fit(model, data, epochs, callbacks, name):
    """Trains and returns the logs of all epochs, a killed run's too."""
    import keras_freetickets as kft

    backup = kft.callbacks.Backup(path("backup", name))
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=epochs,
        verbose=FLAGS.verbose,
        callbacks=[data.epoch_order(), *callbacks, common.Seconds(), backup],
    )
    return backup.history


def train_dense(data):
    """The reference: a third of the way at the rate, then at a tenth ..."""
    import keras

    model = build(data)
    compile_model(model)
    epochs = FLAGS.dense_epochs

    def rate(epoch):
        steps = (epoch >= epochs // 2) + (epoch >= epochs * 3 // 4)
        return FLAGS.learning_rate * 0.1**steps

    schedule = keras.callbacks.LearningRateScheduler(rate)
    history = fit(model, data, epochs, [schedule], "dense")
    common.save(model, path("dense.keras"))
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
        directory=path("tickets"),
        seed=FLAGS.seed,
    )
    history = fit(model, data, edst.epochs, [edst], "edst")
    return edst, history


def export(model, name):
    from keras_freetickets.files import atomic_path

    with atomic_path(path(name)) as temporary:
        model.export(temporary, verbose=False)


def costs(dense, model, epochs, method):
    """Training FLOPs of `epochs` and inference FLOPs, relative to dense."""
    from keras_freetickets.metrics import flops

    whole = flops.forward_flops(dense)
    used = flops.forward_flops(model, common.density_of(model))
    sample = flops.training_flops_per_sample(
        whole, used, method, update_interval=FLAGS.update_interval
    )
    reference = flops.training_flops_per_sample(whole, whole, "dense")
    return {
        "parameters": common.active_parameters(model),
        "train_flops": sample * epochs / (reference * FLAGS.dense_epochs),
        "inference_flops": used / whole,
    }


def report(data, dense, dense_history, edst, history):
    """Scores everything on the test images; writes files and pictures."""
    labels = common.labels_of(data.test)
    predictions = {"dense": dense.predict(data.test, verbose=0)}
    rows = [
        {
            "model": "dense",
            **common.scores(predictions["dense"], labels),
            **costs(dense, dense, FLAGS.dense_epochs, "dense"),
            "seconds": sum(dense_history["seconds"]),
        }
    ]
    ensemble = edst.ensemble()
    members = [ensemble.member(i) for i in range(ensemble.num_members)]
    for i, member in enumerate(ensemble.predict_members(data.test)):
        cost = costs(dense, members[i], edst.phases[i + 1].end, "rigl")
        seconds = sum(history["seconds"][: edst.phases[i + 1].end])
        rows.append(
            {
                "model": f"ticket {i}",
                **common.scores(member, labels),
                **cost,
                "seconds": seconds,
            }
        )
    predictions["ensemble"] = ensemble.predict(data.test, verbose=0)
    rows.append(
        {
            "model": "ensemble",
            **common.scores(predictions["ensemble"], labels),
            "parameters": sum(row["parameters"] for row in rows[1:]),
            "train_flops": rows[-1]["train_flops"],
            "inference_flops": sum(row["inference_flops"] for row in rows[1:]),
            "seconds": rows[-1]["seconds"],
        }
    )
    common.save(ensemble, path("ensemble.keras"))
    export(ensemble, "saved_model")
    draw(predictions, labels, members[0], edst, history)
    return rows


def draw(predictions, labels, ticket, edst, history):
    import keras_freetickets as kft
    from keras_freetickets import plots

    export(kft.strip(ticket), "saved_model_ticket")
    plots.learning_curve(
        history, edst.phases, path("pictures", "learning_curve.png")
    )
    plots.reliability_diagram(
        {name: (p, labels) for name, p in predictions.items()},
        path("pictures", "reliability.png"),
    )
    rows = kft.sparsity_summary(ticket, print_fn=False)
    plots.density_per_layer(rows, path("pictures", "density.png"))


def main(_):
    logging.set_verbosity(logging.WARNING)
    config = {name: getattr(FLAGS, name) for name in _CONFIG}
    common.claim_directory(FLAGS.output_dir, config)
    done = common.read_json(path("metrics.json"))
    if done is None:
        import keras_freetickets as kft

        data = kft.datasets.load(
            "optdigits",
            batch_size=FLAGS.batch_size,
            seed=FLAGS.seed,
            data_dir=FLAGS.data_dir,
        )
        print("Dense reference", flush=True)
        dense, dense_history = train_dense(data)
        print("EDST: exploration and refinements", flush=True)
        edst, history = train_tickets(data)
        rows = report(data, dense, dense_history, edst, history)
        done = {
            "config": config,
            "rows": rows,
            "history": {"dense": dense_history, "edst": history},
        }
        common.write_json(path("metrics.json"), done)
    print(common.table(done["rows"]))
    print(f"Files: {FLAGS.output_dir}")


if __name__ == "__main__":
    flags.FLAGS.set_default("batch_size", 32)
    app.run(main)
