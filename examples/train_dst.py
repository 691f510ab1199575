r"""Trains independent tickets (DST) and makes an ensemble of them.

Train one seed per run, then collect all seeds of --output_dir:

    for seed in 0 1 2; do
      python examples/train_dst.py --dataset=fashion_mnist \
          --data_dir=../shared/tfds --epochs=10 --seed=$seed
    done
    python examples/train_dst.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --epochs=10 --collect

--sparsity=0 trains a dense reference. If a run is killed, start it again with
the same flags: it resumes.
"""

import glob
import os
from typing import Any

import costs
import ensemble_rows
import results
import run_directory
import training
import training_flags
from absl import app
from absl import flags

import keras_freetickets as kft

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 25, "Epochs of each run.", lower_bound=1)
flags.DEFINE_bool("collect", False, "Make the ensemble of the finished seeds.")


def seed_directory(seed: int) -> str:
    return os.path.join(FLAGS.output_dir, f"seed_{seed}")


def update_interval(data: kft.datasets.Datasets) -> int:
    """The interval; refused if the run would have no topology update."""
    steps = training.steps(data.num_train, FLAGS.epochs)
    interval = training_flags.update_interval(steps)
    if FLAGS.sparsity:
        training_flags.check_interval(interval, {"run": steps})
    return interval


def train() -> None:
    data = training.load()
    interval = update_interval(data)
    _, model = training.sparse_network(
        data.input_shape, data.num_classes, sparsity=FLAGS.sparsity
    )
    training.compile_model(model)
    dst = kft.callbacks.DST(
        seed_directory(FLAGS.seed),
        growth=FLAGS.growth,
        update_interval=interval,
        drop_fraction=FLAGS.drop_fraction,
        seed=FLAGS.seed,
    )
    run_directory.claim_directory(FLAGS.output_dir, shared_config())
    schedule = training.step_decay(FLAGS.epochs)
    name = os.path.join(f"seed_{FLAGS.seed}", "backup")
    cost = costs.training_cost(FLAGS.growth, interval)
    callbacks = [schedule, cost, dst]
    history = training.fit(model, data, FLAGS.epochs, callbacks, name)
    # It marks the seed as finished.
    run_directory.write_json(
        os.path.join(seed_directory(FLAGS.seed), "history.json"), history
    )
    print(
        f"Ticket of seed {FLAGS.seed}: "
        f"{os.path.join(dst.directory, 'ticket_0.keras')}. When all seeds are "
        "trained, start the script with --collect."
    )


def finished_seeds() -> list[int]:
    """The seeds whose runs are complete, in order."""
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


def collect() -> None:
    seeds = finished_seeds()
    folders = [seed_directory(seed) for seed in seeds]
    ensemble = kft.EnsembleModel.from_tickets(folders)
    histories = [
        run_directory.read_json(os.path.join(folder, "history.json"))
        for folder in folders
    ]
    data = training.load()
    interval = update_interval(data)
    dense = training.network(data.input_shape, data.num_classes)
    rows = ensemble_rows.member_rows(
        ensemble,
        data,
        lambda model, epochs: costs.flag_costs(dense, model, epochs, interval),
        [FLAGS.epochs] * len(folders),
        [sum(history["seconds"]) for history in histories],
        names=[f"seed {seed}" for seed in seeds],
    )
    results.write_ensemble(ensemble)
    results.finish(
        rows, dict(zip(folders, histories, strict=True)), shared_config()
    )


def shared_config() -> dict[str, Any]:
    """The flags that are the same for all seeds of a directory."""
    config = run_directory.config()
    return {k: v for k, v in config.items() if k not in ("seed", "collect")}


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    FLAGS.set_default("reference_epochs", FLAGS.epochs)
    run_directory.check_directory(FLAGS.output_dir, shared_config())
    if FLAGS.collect:
        collect()
    else:
        train()


if __name__ == "__main__":
    flags.DEFINE_integer("reference_epochs", None, "Set by --epochs.")
    training_flags.define("runs/dst")
    training_flags.define_storage()
    flags.adopt_module_key_flags(training_flags)
    app.run(main)
