r"""Trains an ensemble of a network by one of several methods.

    python examples/train_ensemble.py --method=snapshot --epochs=10

The methods of FreeTickets (edst, dst), and others to compare them with: dense
networks (dense), sparse ones with fixed masks (static), snapshots of one run
(snapshot), pruned and fine-tuned networks (pf), lottery tickets (ltr),
subnetworks of one network (mimo). A setting that is not given has the value
that its authors published (docs/making_ensembles.md), which needs a GPU;
--recipe prints the settings. The network and its optimizer are those of the
flags for all methods, except the learning rate of snapshot (0.2) and the
schedule of a sparse mimo (RigL's). The tickets, the ensemble, also as a packed
file, and `metrics.json` go to --output_dir. If the run is killed, start it
again with the same flags: it resumes.
"""

import inspect
import os
from typing import Any

import ensemble_rows
import keras
import results
import run_directory
import training
import training_flags
from absl import app
from absl import flags

import keras_freetickets as kft
from keras_freetickets.topology import schedules

FLAGS = flags.FLAGS
# From --method to the names of keras_freetickets.recipes.
METHODS = {
    name: name
    for name in ("dense", "static", "dst", "edst", "snapshot", "mimo")
}
METHODS |= {"pf": "prune_and_finetune", "ltr": "lottery_ticket_rewinding"}
flags.DEFINE_enum("method", "edst", list(METHODS), "How the members are made.")
flags.DEFINE_bool("recipe", False, "Print the method's settings; do not train.")
flags.DEFINE_integer("num_members", None, "Number of members.", lower_bound=1)
flags.DEFINE_integer("epochs", None, "Epochs of a training.", lower_bound=1)
flags.DEFINE_integer("exploration_epochs", None, "Of edst.", lower_bound=1)
flags.DEFINE_integer("refinement_epochs", None, "Of edst.", lower_bound=1)
flags.DEFINE_float("global_drop_fraction", None, "Of edst.", 1e-9, 1.0)
flags.DEFINE_integer("cycle_epochs", None, "Of snapshot.", lower_bound=1)
flags.DEFINE_integer("fine_tuning_epochs", None, "Of pf.", lower_bound=1)
flags.DEFINE_float("fine_tuning_rate", None, "Of pf, a factor.", 1e-9, None)
flags.DEFINE_integer("rounds", None, "Of ltr.", lower_bound=1)
flags.DEFINE_integer("rewind_epochs", None, "Of ltr.", lower_bound=1)
flags.DEFINE_integer("batch_repetitions", None, "Of mimo.", lower_bound=1)
flags.DEFINE_float("input_repetition", None, "Of mimo.", 0.0, 1.0)
flags.DEFINE_string(
    "monitor",
    None,
    "Epoch log whose best value selects a member's epoch; empty: its last "
    "epoch. Default: the method's.",
)
flags.DEFINE_integer(
    "num_examples", None, "Training images to use. Default: all.", lower_bound=1
)
flags.DEFINE_integer(
    "reference_epochs",
    250,
    "Epochs of the dense network that training costs are relative to.",
    lower_bound=1,
)

# Flags of the data, the network and its optimizer; not of a method.
_SHARED = {"learning_rate", "momentum", "weight_decay", "batch_size", "seed"}


def is_given(name: str) -> bool:
    return name in FLAGS and FLAGS[name].present


def method() -> kft.recipes.Recipe:
    """The recipe with the settings that are given as flags."""
    classes = [kft.recipes.class_of(name) for name in METHODS.values()]
    names = {
        name for one in classes for name in inspect.signature(one).parameters
    }
    given = {n: FLAGS[n].value for n in names - _SHARED if is_given(n)}
    kind = kft.recipes.class_of(METHODS[FLAGS.method])
    known = set(inspect.signature(kind).parameters) - _SHARED
    for name in sorted(set(given) - known):
        raise SystemExit(
            f"--{name}={given[name]} is not a setting of "
            f"--method={FLAGS.method}, which has {sorted(known)}"
        )
    if given.get("monitor") == "":
        given["monitor"] = None
    if FLAGS.method == "mimo" and given.get("sparsity") and not FLAGS.recipe:
        given |= rigl_of_mimo(given)
    with run_directory.naming(f"--method={FLAGS.method}"):
        return kft.recipes.get(METHODS[FLAGS.method], **given)


def rigl_of_mimo(given: dict[str, Any]) -> dict[str, Any]:
    """The end of RigL's updates, and a drop fraction that decays until then."""
    epochs = given.get("epochs", 250)
    num_train = training.load(num_examples=FLAGS.num_examples).num_train
    stop = max(training.steps(num_train, epochs) * 3 // 4, 1)
    fraction = given.get("drop_fraction", 0.3)
    return {
        "stop_step": stop,
        "drop_fraction": schedules.Cosine(fraction, stop),
    }


def check_updates(recipe: Any, num_train: int) -> None:
    """Refuses a recipe that would never update the topology."""
    interval = getattr(recipe, "update_interval", None)
    if interval is None or not recipe.sparsity:
        return
    if FLAGS.method == "edst":
        epochs = {
            "exploration": recipe.exploration_epochs,
            "refinement": recipe.refinement_epochs,
        }
    else:
        epochs = {"run": recipe.epochs}
    phases = {name: training.steps(num_train, n) for name, n in epochs.items()}
    training_flags.check_interval(interval, phases)


def train(recipe: Any, data: kft.datasets.Datasets) -> kft.EnsembleModel:
    shape, classes = data.input_shape, data.num_classes

    def make_model(seed: int) -> keras.Model:
        if FLAGS.method != "mimo":
            return training.network(shape, classes, seed)
        return training.mimo_body(shape, classes, recipe.num_members, seed)

    def fit_arguments(seed: int) -> dict[str, Any]:
        # The order of each epoch follows from the seed of the member.
        own = training.load(num_examples=FLAGS.num_examples, seed=seed)
        return {
            "x": own.train,
            "shuffle": False,  # the pipeline does it
            "validation_data": own.validation,
            "callbacks": [own.epoch_order()],
        }

    return recipe.fit(
        make_model,
        training.compile_model,
        fit_arguments,
        os.path.join(FLAGS.output_dir, "runs"),
        FLAGS.seed,
        FLAGS.verbose,
    )


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    if FLAGS.method == "snapshot" and not is_given("learning_rate"):
        FLAGS.learning_rate = 0.2  # README of gaohuang/SnapshotEnsemble
    recipe = method()
    if FLAGS.recipe:
        print(f"--learning_rate: {FLAGS.learning_rate}")
        for name, value in recipe.settings().items():
            print(f"{name}: {value}")
        return
    config = run_directory.config()
    run_directory.check_directory(FLAGS.output_dir, config)
    data = training.load(num_examples=FLAGS.num_examples)
    check_updates(recipe, data.num_train)
    run_directory.claim_directory(FLAGS.output_dir, config)
    ensemble = train(recipe, data)
    results.write_ensemble(ensemble)
    ensemble.save_packed(os.path.join(FLAGS.output_dir, "ensemble.npz"))
    histories = {run.name: run.history for run in recipe.runs}
    rows = ensemble_rows.recipe_rows(recipe, ensemble, data)
    results.finish(rows, histories, config)


if __name__ == "__main__":
    training_flags.define("runs/ensemble")
    flags.adopt_module_key_flags(training_flags)
    app.run(main)
