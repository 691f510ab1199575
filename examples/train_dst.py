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

import glob
import os

import common
import results
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 25, "Epochs of each run.", lower_bound=1)
flags.DEFINE_bool(
    "collect", False, "Build the ensemble of the seeds that are there."
)


def seed_directory(seed):
    return os.path.join(FLAGS.output_dir, f"seed_{seed}")


def update_interval(data):
    """The interval, once the run is known to have an update."""
    steps = common.steps(data, FLAGS.epochs)
    interval = common.update_interval(steps)
    if FLAGS.sparsity:
        common.check_interval(interval, {"run": steps})
    return interval


def train():
    import keras_freetickets as kft

    data = common.load()
    interval = update_interval(data)
    dense = common.network(data.input_shape, data.num_classes)
    model = kft.sparsify(
        dense, FLAGS.sparsity, FLAGS.distribution, seed=FLAGS.seed
    )
    kft.sparsity_summary(model)
    common.compile_model(model)
    dst = kft.callbacks.DST(
        seed_directory(FLAGS.seed),
        growth=FLAGS.growth,
        update_interval=interval,
        drop_fraction=FLAGS.drop_fraction,
        seed=FLAGS.seed,
    )
    common.claim_directory(FLAGS.output_dir, shared_config())
    schedule = common.step_decay(FLAGS.epochs)
    name = os.path.join(f"seed_{FLAGS.seed}", "backup")
    cost = results.training_cost(FLAGS.growth, interval)
    callbacks = [schedule, cost, dst]
    history = common.fit(model, data, FLAGS.epochs, callbacks, name)
    # The sign that this seed is done.
    common.write_json(
        os.path.join(seed_directory(FLAGS.seed), "history.json"), history
    )
    print(
        f"Ticket of seed {FLAGS.seed}: "
        f"{os.path.join(dst.directory, 'ticket_0.keras')}. With all seeds "
        "trained, start again with --collect."
    )


def finished_seeds():
    """Numbers of the seeds whose runs are done, in order."""
    begun = glob.glob(os.path.join(FLAGS.output_dir, "seed_*"))
    numbers = sorted(int(path.rpartition("_")[2]) for path in begun)
    done = [
        seed
        for seed in numbers
        if os.path.exists(os.path.join(seed_directory(seed), "history.json"))
    ]
    for seed in sorted(set(numbers) - set(done)):
        print(f"Seed {seed} is not finished and is left out.")
    if not done:
        raise SystemExit(
            "--collect needs finished runs: no seed_*/history.json in "
            f"--output_dir={FLAGS.output_dir}"
        )
    return done


def collect():
    import keras_freetickets as kft

    seeds = finished_seeds()
    folders = [seed_directory(seed) for seed in seeds]
    ensemble = kft.EnsembleModel.from_tickets(folders)
    histories = [
        common.read_json(os.path.join(folder, "history.json"))
        for folder in folders
    ]
    data = common.load()
    interval = update_interval(data)
    dense = common.network(data.input_shape, data.num_classes)
    rows = results.member_rows(
        ensemble,
        data,
        [FLAGS.epochs] * len(folders),
        [sum(history["seconds"]) for history in histories],
        lambda model, epochs: results.flag_costs(
            dense, model, epochs, interval
        ),
        apart=True,
        names=[f"seed {seed}" for seed in seeds],
    )
    results.write_ensemble(ensemble)
    results.finish(
        rows, dict(zip(folders, histories, strict=True)), shared_config()
    )


def shared_config():
    """The flags that all seeds of a directory have in common."""
    config = common.config()
    return {k: v for k, v in config.items() if k not in ("seed", "collect")}


def main(argv):
    common.no_arguments(argv)
    flags.FLAGS.set_default("reference_epochs", FLAGS.epochs)
    common.check_directory(FLAGS.output_dir, shared_config())
    if FLAGS.collect:
        collect()
    else:
        train()


if __name__ == "__main__":
    flags.DEFINE_integer("reference_epochs", None, "Set by --epochs.")
    common.define_training_flags("runs/dst")
    flags.adopt_module_key_flags(common)
    app.run(main)
