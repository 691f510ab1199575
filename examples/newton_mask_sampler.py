r"""Which tickets and which channels to keep: samples instead of one choice.

    python examples/newton_mask_sampler.py
    python examples/newton_mask_sampler.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --hidden=300,100 --members=20 \
        --exploration_epochs=6 --refinement_epochs=1

Trains tickets (one EDST run) and samples sub-ensembles of them by Newton's
proposal, with the likelihood of validation examples as the target. The first
table compares the samplers: how many coordinates a proposal changes, how often
it is accepted, what a second of sampling is worth. The second compares what
they choose with greedy selection, on test examples. The third cuts hidden units
of a trained network in the same way, each at the same price. If the script is
killed, start it again with the same flags: training resumes.
"""

import os
from typing import Any

import array_data
import keras
import numpy as np
import run_directory
import tables
from absl import app
from absl import flags
from absl import logging

import keras_freetickets as kft
from keras_freetickets.ensembles import member_selection

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "runs/newton", "Where all files go.")
flags.DEFINE_string("dataset", "optdigits", "optdigits or a set of TFDS.")
flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
flags.DEFINE_integer(
    "num_examples", None, "Train on the first images only.", lower_bound=1
)
flags.DEFINE_list("hidden", ["64", "32"], "Units of the hidden layers.")
flags.DEFINE_float("sparsity", 0.8, "Sparsity of the tickets.", 0.0, 0.999)
flags.DEFINE_integer("members", 16, "Tickets to choose from.", lower_bound=2)
flags.DEFINE_integer(
    "exploration_epochs", 10, "Epochs before the first ticket.", lower_bound=1
)
flags.DEFINE_integer(
    "refinement_epochs", 2, "Epochs of each ticket.", lower_bound=1
)
flags.DEFINE_float(
    "beta",
    None,
    "Weight of the mean likelihood; default: the number of validation "
    "examples, which makes the target a posterior.",
    lower_bound=1e-6,
)
flags.DEFINE_float("cost", 0.5, "Price of a ticket in the energy.")
flags.DEFINE_float("unit_cost", 1.0, "Price of a hidden unit in the energy.")
flags.DEFINE_integer("chains", 32, "Chains side by side.", lower_bound=1)
flags.DEFINE_integer("steps", 500, "Steps after the burn-in.", lower_bound=4)
flags.DEFINE_integer("seed", 0, "Seed of everything.", 0, 2**31 - 1)
_METHODS = ("mana", "una", "locally_balanced", "gibbs")


def path(name: str) -> str:
    return os.path.join(FLAGS.output_dir, name)


def network(data: array_data.Arrays) -> keras.Model:
    keras.utils.set_random_seed(FLAGS.seed)
    model = keras.Sequential([keras.Input(data.train[0].shape[1:])])
    model.add(keras.layers.Flatten())
    for units in FLAGS.hidden:
        model.add(keras.layers.Dense(int(units), activation="relu"))
    model.add(keras.layers.Dense(data.num_classes, activation="softmax"))
    return model


def fit(model: keras.Model, data: array_data.Arrays, **settings: Any) -> None:
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        "sparse_categorical_crossentropy",
    )
    size = 128 if len(data.train[0]) > 2000 else 32
    model.fit(*data.train, batch_size=size, verbose=0, **settings)


def tickets(data: array_data.Arrays) -> kft.EnsembleModel:
    """The members to choose from."""
    edst = kft.callbacks.EDST(
        exploration_epochs=FLAGS.exploration_epochs,
        refinement_epochs=FLAGS.refinement_epochs,
        num_tickets=FLAGS.members,
        update_interval=20,
        monitor=None,  # the last epoch: validation chooses members alone
        directory=path("tickets"),
        seed=FLAGS.seed,
    )
    print(f"{FLAGS.members} tickets in {edst.epochs} epochs", flush=True)
    sparse = kft.sparsify(network(data), FLAGS.sparsity, seed=FLAGS.seed)
    backup = kft.callbacks.Backup(path("backup"))
    fit(sparse, data, epochs=edst.epochs, callbacks=[edst, backup])
    return edst.ensemble()


def sample(
    energy: Any, coordinates: int, method: str, chains: int
) -> kft.sampling.Samples:
    quarters = iter((1, 2, 3, 4, 5))
    due = [next(quarters)]

    def progress(row: dict[str, Any]) -> None:
        if row["step"] * 4 >= due[0] * row["steps"]:
            due[0] = next(quarters)
            print(
                f"  {method}: step {row['step']} of {row['steps']}, "
                f"mean energy {row['energy']:.2f}",
                flush=True,
            )

    sampler = kft.sampling.DiscreteSampler(method=method, seed=FLAGS.seed)
    start = np.random.default_rng(FLAGS.seed).integers(
        0, 2, (chains, coordinates)
    )
    return sampler.run(energy, start, FLAGS.steps, FLAGS.steps // 2, progress)


def compared(samples: dict[str, kft.sampling.Samples]) -> list[dict[str, Any]]:
    """How the chains moved."""
    return [
        {
            "sampler": name,
            "alpha": one.alpha if name in ("mana", "una") else None,
            "acceptance": one.acceptance,
            "changes": one.changes,
            "ess": one.effective_sample_size(),
            "ess_per_second": one.effective_sample_size() / one.seconds,
            "best_energy": float(one.energies.max()),
            "seconds": one.seconds,
        }
        for name, one in samples.items()
    ]


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    nll = kft.metrics.negative_log_likelihood(labels, probabilities)
    correct = probabilities.argmax(axis=-1) == labels
    return {"nll": float(np.mean(nll)), "accuracy": float(correct.mean())}


def _size(samples: kft.sampling.Samples) -> int:
    """The mean number of bits of a sample, at least 1."""
    return max(1, round(float(samples.states.sum(axis=-1).mean())))


def choices(
    data: array_data.Arrays,
    ensemble: kft.EnsembleModel,
    samples: kft.sampling.Samples,
    energy: kft.sampling.SubEnsembles,
    valid: np.ndarray,
) -> list[dict[str, Any]]:
    """Test scores of sub-ensembles chosen on validation examples."""
    found = ensemble.predict_members(data.test[0])
    members = keras.ops.convert_to_numpy(found)
    order, _, best = member_selection.forward_selection(
        valid, data.validation[1]
    )
    count = len(members)
    states = {
        "all tickets": np.ones(count),
        "best ticket": np.eye(count)[order[0]],
        "greedy": np.isin(np.arange(count), order[:best]),
        "sampled: best": samples.best(),
        "sampled: frequent": samples.most_frequent(_size(samples)),
    }
    weights = {name: one / one.sum() for name, one in states.items()}
    weights["sampled: mean"] = energy.weights(samples.states)
    sizes = {name: float(one.sum()) for name, one in states.items()}
    sizes["sampled: mean"] = float(samples.states.sum(axis=-1).mean())
    return [
        {
            "choice": name,
            "kept": sizes[name],
            **scores(data.test[1], np.tensordot(one, members, 1)),
        }
        for name, one in weights.items()
    ]


def cut_units(data: array_data.Arrays) -> list[dict[str, Any]]:
    """Masks over the last hidden layer of a dense network."""
    model = network(data)
    fit(model, data, epochs=FLAGS.exploration_epochs)
    hidden = model.layers[-2]
    x, y = (part[:128] for part in data.validation)
    energy = kft.sampling.ChannelMasks(
        model, hidden.name, x, y, cost=FLAGS.unit_cost
    )
    samples = sample(energy, energy.num_channels, "mana", 8)
    best, frequent = samples.best(), samples.most_frequent(_size(samples))
    above = keras.ops.convert_to_numpy(model.layers[-1].kernel)
    below = keras.ops.convert_to_numpy(hidden.kernel)
    norms = np.linalg.norm(above, axis=1) * np.linalg.norm(below, axis=0)
    kept = int(best.sum())
    large = np.zeros(len(norms), int)
    large[np.argsort(-norms)[:kept]] = 1
    random = np.random.default_rng(FLAGS.seed).permutation(large)
    masks = {
        "all units": np.ones(len(norms), int),
        "sampled: best": best,
        "sampled: frequent": frequent,
        "largest norms, as many": large,
        "random, as many": random,
    }
    rows = []
    weights = model.layers[-1].get_weights()
    for name, mask in masks.items():
        model.layers[-1].set_weights([weights[0] * mask[:, None], weights[1]])
        found = scores(data.test[1], model.predict(data.test[0], verbose=0))
        rows.append({"choice": name, "kept": int(mask.sum()), **found})
    return rows


def draw(
    samples: dict[str, kft.sampling.Samples], rows: list[dict[str, Any]]
) -> None:
    """Energies of three chains of each, and how often a ticket is kept."""
    try:
        from matplotlib import figure
    except ImportError:
        print("No picture: pip install matplotlib")
        return
    picture = figure.Figure(figsize=(11, 5), layout="constrained")
    grid = picture.add_gridspec(2, 3, width_ratios=[1, 1, 1.2])
    lowest = min(float(one.energies.min()) for one in samples.values())
    highest = max(float(one.energies.max()) for one in samples.values())
    room = max(0.05 * (highest - lowest), 0.5)  # lines are not on the edge
    for i, (one, row) in enumerate(zip(samples.values(), rows, strict=True)):
        axes = picture.add_subplot(grid[i // 2, i % 2])
        axes.plot(one.energies[:3, :200].T, lw=0.8)
        axes.set(xlabel="step", ylabel="energy")
        axes.set_ylim(lowest - room, highest + room)
        name = row["sampler"].replace("_", " ")
        axes.set_title(
            f"{name}: accepts {row['acceptance']:.2f}, "
            f"changes {row['changes']:.2f}",
            fontsize=9,
        )
    axes = picture.add_subplot(grid[:, 2])
    means = samples["mana"].means()
    axes.bar(np.arange(len(means)), means)
    axes.set(xlabel="ticket", ylabel="share of samples", ylim=(0, 1))
    axes.set_xticks(range(0, len(means), max(1, len(means) // 8)))
    axes.set_title("How often a ticket is kept (mana)", fontsize=9)
    picture.savefig(path("chains.png"), dpi=110)


_FORMS = {
    "acceptance": "{:.3f}",
    "accuracy": "{:.4f}",
    "alpha": "{:.3g}",
    "best_energy": "{:.2f}",
    "changes": "{:.2f}",
    "ess": "{:,.0f}",
    "ess_per_second": "{:,.0f}",
    "kept": "{:.1f}",
    "nll": "{:.4f}",
    "seconds": "{:.1f}",
}


def show(done: dict[str, Any]) -> None:
    for name in ("samplers", "tickets", "units"):
        keys = list(done[name][0])
        cells = [
            [
                "-" if row[k] is None else _FORMS.get(k, "{}").format(row[k])
                for k in keys
            ]
            for row in done[name]
        ]
        print(f"\n{name}\n{tables.aligned([keys, *cells])}")
    print(f"Files: {FLAGS.output_dir}")


def run() -> dict[str, Any]:
    data = array_data.load(FLAGS.dataset, FLAGS.seed, FLAGS.num_examples)
    run_directory.claim_directory(FLAGS.output_dir, run_directory.config())
    ensemble = tickets(data)
    x, labels = data.validation
    valid = keras.ops.convert_to_numpy(ensemble.predict_members(x))
    energy = kft.sampling.SubEnsembles(labels, valid, FLAGS.beta, FLAGS.cost)
    print("Sub-ensembles", flush=True)
    samples = {
        method: sample(energy, len(valid), method, FLAGS.chains)
        for method in _METHODS
    }
    samplers = compared(samples)
    draw(samples, samplers)
    chosen = choices(data, ensemble, samples["mana"], energy, valid)
    print("Hidden units", flush=True)
    return {
        "config": run_directory.config(),
        "samplers": samplers,
        "tickets": chosen,
        "units": cut_units(data),
    }


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.ERROR)
    if not all(units.isdigit() and int(units) for units in FLAGS.hidden):
        raise SystemExit(f"--hidden={','.join(FLAGS.hidden)} must be integers")
    run_directory.check_directory(FLAGS.output_dir, run_directory.config())
    done = run_directory.read_json(path("metrics.json"))
    if done is None:
        done = run()
        run_directory.write_json(path("metrics.json"), done)
    show(done)


if __name__ == "__main__":
    app.run(main)
