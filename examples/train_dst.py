r"""Trains one independent ticket, or collects those of several runs.

One seed a run; then the ensemble of all seeds found in --output_dir:

    for seed in 0 1 2; do
      python examples/train_dst.py --dataset=fashion_mnist \
          --data_dir=../shared/tfds --epochs=10 --seed=$seed
    done
    python examples/train_dst.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --epochs=10 --collect

--sparsity=0 trains a dense reference. Killed and started again with the same
flags, a run goes on where it was.
"""

import os

import common
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 25, "Epochs of each run.", lower_bound=1)
flags.DEFINE_bool(
    "collect", False, "Build the ensemble of the seeds that are there."
)


def seed_directory(seed):
    return os.path.join(FLAGS.output_dir, f"seed_{seed}")


def rate_of(epoch):
    """The compiled rate, a tenth of it from 1/2 and again from 3/4 on."""
    drops = (epoch >= FLAGS.epochs / 2) + (epoch >= FLAGS.epochs * 3 / 4)
    return FLAGS.learning_rate * 0.1**drops


def train():
    import keras

    import keras_freetickets as kft

    data = common.load()
    dense = common.network(data.input_shape, data.num_classes)
    model = kft.sparsify(
        dense, FLAGS.sparsity, FLAGS.distribution, seed=FLAGS.seed
    )
    kft.sparsity_summary(model)
    common.compile_model(model)
    dst = kft.callbacks.DST(
        seed_directory(FLAGS.seed),
        growth=FLAGS.growth,
        update_interval=FLAGS.update_interval,
        drop_fraction=FLAGS.drop_fraction,
        seed=FLAGS.seed,
    )
    schedule = keras.callbacks.LearningRateScheduler(rate_of)
    name = os.path.join(f"seed_{FLAGS.seed}", "backup")
    history = common.fit(model, data, FLAGS.epochs, [schedule, dst], name)
    common.write_json(
        os.path.join(seed_directory(FLAGS.seed), "history.json"), history
    )


def collect():
    import glob

    import keras_freetickets as kft

    found = glob.glob(os.path.join(FLAGS.output_dir, "seed_*", "tickets.json"))
    if not found:
        raise SystemExit(
            "--collect needs finished runs: no seed_*/tickets.json in "
            f"--output_dir={FLAGS.output_dir}"
        )
    folders = sorted(os.path.dirname(path) for path in found)
    ensemble = kft.EnsembleModel.from_tickets(folders)
    common.save(ensemble, os.path.join(FLAGS.output_dir, "ensemble.keras"))
    histories = [
        common.read_json(os.path.join(folder, "history.json"))
        for folder in folders
    ]
    seconds = [sum(history["seconds"]) for history in histories]
    data = common.load()
    dense = common.network(data.input_shape, data.num_classes)
    ends = [FLAGS.epochs] * len(folders)
    rows = common.member_rows(dense, ensemble, data, ends, seconds, apart=True)
    common.finish(rows, dict(zip(folders, histories)))


def main(_):
    flags.FLAGS.set_default("reference_epochs", FLAGS.epochs)
    config = common.config()
    for name in ("seed", "collect"):
        config.pop(name)
    common.claim_directory(FLAGS.output_dir, config)
    if FLAGS.collect:
        collect()
    else:
        train()


if __name__ == "__main__":
    flags.DEFINE_integer("reference_epochs", None, "Set by --epochs.")
    common.define_training_flags("runs/dst")
    app.run(main)
