r"""Trains an ensemble of a network by one of several methods.

    python examples/train_ensemble.py --method=snapshot --epochs=10

FreeTickets' own (edst, dst) and what a user would weigh them against: dense
networks (dense), sparse ones whose masks rest (static), snapshots of one run
(snapshot), pruned and fine-tuned networks (pf), lottery tickets (ltr),
subnetworks of one network (mimo). A setting of the method that is not given
has the value that its authors published, see docs/making_ensembles.md: a GPU's
work. --recipe prints these. The network and its optimizer are those of the
flags, whatever the method, but for the rate of snapshot (0.2) and the schedule
of a sparse mimo (RigL's). The tickets, the ensemble, also
as a packed file, and `metrics.json` go to --output_dir. Killed and started
again with the same flags, it goes on where it was.
"""

import inspect
import os
import time

import common
import results
from absl import app
from absl import flags

FLAGS = flags.FLAGS
# The names of keras_freetickets.recipes, two of them shortened.
METHODS = {
    name: name for name in ("dense", "static", "dst", "edst", "snapshot")
}
METHODS |= {"pf": "prune_and_finetune", "ltr": "lottery_ticket_rewinding"}
METHODS["mimo"] = "mimo"
flags.DEFINE_enum("method", "edst", list(METHODS), "How members are made.")
flags.DEFINE_bool("recipe", False, "Print the method's settings; train not.")
flags.DEFINE_integer("num_members", None, "Members.", lower_bound=1)
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
    "Epoch log whose best value chooses a member's epoch; empty: its last "
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

# Of the data, the network and its optimizer; not of a method.
_SHARED = {"learning_rate", "momentum", "weight_decay", "batch_size", "seed"}


def method():
    """The method with the settings that are given."""
    import keras_freetickets as kft

    kind = kft.recipes.class_of(METHODS[FLAGS.method])
    names = set(inspect.signature(kind).parameters) - _SHARED
    _refuse_flags_of_others(names)
    given = {name: FLAGS[name].value for name in names if is_given(name)}
    given |= _rigl_of_mimo(given)
    if given.get("monitor") == "":
        given["monitor"] = None
    try:
        return kind(**given)
    except ValueError as error:
        raise SystemExit(f"--method={FLAGS.method}: {error}") from error


def _rigl_of_mimo(given):
    """The end of RigL's updates, and a drop fraction that falls until then."""
    from keras_freetickets.topology import schedules

    if FLAGS.method != "mimo" or not given.get("sparsity") or FLAGS.recipe:
        return {}
    data = common.load(num_examples=FLAGS.num_examples)
    steps = -(-data.num_train // FLAGS.batch_size) * given.get("epochs", 250)
    stop = max(steps * 3 // 4, 1)
    fraction = given.get("drop_fraction", 0.3)
    return {
        "stop_step": stop,
        "drop_fraction": schedules.Cosine(fraction, stop),
    }


def check_updates(made, data):
    """Refuses a method that would never update the topology."""
    interval = getattr(made, "update_interval", None)
    if interval is None or not made.sparsity:
        return
    if FLAGS.method == "edst":
        epochs = {
            "exploration": made.exploration_epochs,
            "refinement": made.refinement_epochs,
        }
    else:
        epochs = {"run": made.epochs}
    phases = {name: common.steps(data, count) for name, count in epochs.items()}
    common.check_interval(interval, phases)


def is_given(name):
    return name in FLAGS and FLAGS[name].present


def _refuse_flags_of_others(names):
    import keras_freetickets as kft

    settings = {
        name
        for other in METHODS.values()
        for name in inspect.signature(kft.recipes.class_of(other)).parameters
    }
    for name in sorted(settings - names - _SHARED):
        if is_given(name):
            raise SystemExit(
                f"--{name}={FLAGS[name].value} is not a setting of "
                f"--method={FLAGS.method}, which has {sorted(names)}"
            )


def train(method, data):
    """The ensemble, and the dense network that costs are relative to."""
    shape, classes = data.input_shape, data.num_classes

    def make_model(seed):
        if FLAGS.method != "mimo":
            return common.network(shape, classes, seed)
        return common.mimo_body(shape, classes, method.num_members, seed)

    def fit_arguments(seed):
        # The order of each epoch follows from the seed of the member.
        own = common.load(num_examples=FLAGS.num_examples, seed=seed)
        return {
            "x": own.train,
            "shuffle": False,  # the pipeline does it
            "validation_data": own.validation,
            "callbacks": [own.epoch_order()],
        }

    ensemble = method.fit(
        make_model,
        common.compile_model,
        fit_arguments,
        os.path.join(FLAGS.output_dir, "runs"),
        FLAGS.seed,
        FLAGS.verbose,
    )
    return ensemble, common.network(shape, classes)


def heads(ensemble, images):
    """Probabilities of all that is averaged, MIMO's heads apart."""
    import keras
    import numpy as np

    if FLAGS.method != "mimo":
        return ensemble.predict_members(images)
    member = ensemble.member(0)
    apart = keras.Model(member.inputs, member.layers[-2].output)
    return np.moveaxis(apart.predict(images, verbose=0), 1, 0)


def milliseconds(ensemble, images, rounds=20):
    """The median time in which a batch is predicted."""
    import numpy as np

    ensemble.predict_on_batch(images)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        ensemble.predict_on_batch(images)
        found.append(1e3 * (time.perf_counter() - start))
    return float(np.median(found))


def diversity(members, labels):
    """How much the members differ, beyond their mean."""
    import numpy as np

    from keras_freetickets import metrics

    if len(members) < 2:
        return {"disagreement": None, "kl": None}
    apart = metrics.disagreement(members)
    kl = metrics.pairwise_kl(members)
    return {"disagreement": float(np.mean(apart)), "kl": float(np.mean(kl))}


def rows(method, ensemble, dense, data):
    """Scores and costs of each member and of the ensemble."""
    import numpy as np

    from keras_freetickets.metrics import flops

    labels = results.labels_of(data.test)
    members = heads(ensemble, data.test)
    reference = 3.0 * flops.forward_flops(dense) * FLAGS.reference_epochs
    models = [ensemble.member(i) for i in range(ensemble.num_members)]
    first = next(iter(data.test))[0]
    file = os.path.join(FLAGS.output_dir, "ensemble.npz")
    found = [
        {"model": f"member {i}", **results.scores(member, labels)}
        for i, member in enumerate(members)
    ]
    found.append(
        {
            "model": FLAGS.method,
            **results.scores(np.mean(members, axis=0), labels),
            **diversity(members, labels),
            "parameters": sum(results.active_parameters(m) for m in models),
            "file_bytes": os.path.getsize(file),
            "train_flops": method.training_flops() / reference,
            "seconds": sum(sum(r.history["seconds"]) for r in method.runs),
            "inference_flops": sum(
                results.relative_flops(dense, m) for m in models
            ),
            "inference_ms": milliseconds(ensemble, first),
        }
    )
    return found


def main(argv):
    common.no_arguments(argv)
    made = method()
    if FLAGS.method == "snapshot" and not is_given("learning_rate"):
        FLAGS.learning_rate = 0.2  # README of gaohuang/SnapshotEnsemble
    if FLAGS.recipe:
        print(f"--learning_rate: {FLAGS.learning_rate}")
        for name, value in made.settings().items():
            print(f"{name}: {value}")
        return
    common.check_directory(FLAGS.output_dir, common.config())
    data = common.load(num_examples=FLAGS.num_examples)
    check_updates(made, data)
    common.claim_directory(FLAGS.output_dir, common.config())
    ensemble, dense = train(made, data)
    results.write_ensemble(ensemble)
    ensemble.save_packed(os.path.join(FLAGS.output_dir, "ensemble.npz"))
    histories = {run.name: run.history for run in made.runs}
    results.finish(
        rows(made, ensemble, dense, data), histories, common.config()
    )


if __name__ == "__main__":
    common.define_training_flags("runs/ensemble")
    flags.adopt_module_key_flags(common)
    app.run(main)
