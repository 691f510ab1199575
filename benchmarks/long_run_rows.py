"""The rows of the long runs: what is trained, and what is tried for each.

Settings are not written here: they are chosen on validation images, by the
candidates below, and kept in `benchmarks/results/long_runs/*/settings/`.
"""

import dataclasses
import math

import keras

from keras_freetickets import applications
from keras_freetickets import recipes
from keras_freetickets import sparsify
from keras_freetickets import spiking
from keras_freetickets.callbacks import TicketCheckpoint

MEMBERS = 3
SPARSITIES = (0.8, 0.9, 0.95)
# Of the runs that choose settings: a seed of its own, a quarter of the epochs.
SEARCH_SEED = 100
SEARCH_SHARE = 4


def _wide_mlp(shape, classes):
    inputs = keras.Input(shape)
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(1000, activation="relu")(x)
    x = keras.layers.Dense(300, activation="relu")(x)
    outputs = keras.layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="mlp_1000_300")


def _narrow_resnet(shape, classes):
    return applications.wide_resnet(10, 1, shape, classes, weight_decay=0.0)


def _spiking_mlp(shape, classes, steps=5, normalizes=True):
    """LeNet-300-100 of LIF neurons; the image's layer is computed once."""

    def dense(x, units):
        x = keras.layers.Dense(units)(x)
        return keras.layers.BatchNormalization()(x) if normalizes else x

    inputs = keras.Input(shape)
    x = dense(keras.layers.Flatten()(inputs), 300)
    x = spiking.RepeatSteps(steps)(x)
    x = dense(spiking.LIF()(x), 100)
    x = spiking.LIF()(x)
    # The logits of the mean are the mean of the logits.
    x = keras.layers.GlobalAveragePooling1D()(x)
    outputs = keras.layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="spiking_mlp_300_100")


def _plain_spiking_mlp(shape, classes):
    return _spiking_mlp(shape, classes, normalizes=False)


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, a network and how long a dense network is trained."""

    dataset: str
    build: object
    epochs: int
    batch_size: int = 128
    num_examples: int | None = None
    jit_compile: bool = True
    augments: tuple = ("none", "crop_flip")
    rates: tuple = (0.01, 0.03, 0.1)
    decays: tuple = (0.0, 1e-3, 5e-3, 2e-2)
    intervals: tuple = (200, 500, 1000)


TASKS = {
    "lenet": Task("fashion_mnist", applications.lenet_300_100, 100),
    "wide_mlp": Task("fashion_mnist", _wide_mlp, 100),
    "small_cnn": Task("fashion_mnist", applications.small_cnn, 40),
    "cifar10": Task("cifar10", _narrow_resnet, 40, augments=("crop_flip",)),
    # Seconds, for tests of this benchmark.
    "tiny": Task(
        "optdigits",
        applications.lenet_300_100,
        2,
        batch_size=64,
        num_examples=256,
        jit_compile=False,
        augments=("none",),
        rates=(0.1,),
        decays=(0.0, 1e-3),
        intervals=(2, 4),
    ),
}
# Intervals leave 200 topology updates or more in 75 % of the steps. Not
# compiled, models of equal methods share the compiled topology update, and
# compiling would take as long as these runs.
_SPIKES = {
    "jit_compile": False,
    "augments": ("none",),
    "rates": (0.01, 0.03, 0.1, 0.3),
    "decays": (0.0, 5e-3),
}
_DIGITS = {"epochs": 80, "batch_size": 32, "intervals": (4, 12), **_SPIKES}
TASKS |= {
    "spiking_digits": Task("optdigits", _spiking_mlp, **_DIGITS),
    "spiking_digits_plain": Task("optdigits", _plain_spiking_mlp, **_DIGITS),
    "spiking_fashion": Task(
        "fashion_mnist",
        _spiking_mlp,
        epochs=20,
        batch_size=64,
        num_examples=20_000,
        intervals=(7, 21),
        **_SPIKES,
    ),
}


# Of `recipes.sparse_training`, one network a row. AGENT, CigL and MOON are left
# out: they look at the training data besides the step's batches.
FAMILY = ("gmp", "granet", "itop_rigl", "itop_set", "ndsnn", "rigl", "set")
FAMILY += ("snfs", "srigl")
SPIKING = ("ndsnn", "rigl", "set")


@dataclasses.dataclass(frozen=True)
class Row:
    """One ensemble to train and score; its members are rows too."""

    task: str
    method: str
    sparsity: float
    seed: int
    members: int = MEMBERS
    epochs: int | None = None  # the task's

    @property
    def family(self):
        """What its settings are chosen for."""
        sparse = f"-{self.sparsity}" if self.sparsity else ""
        return f"{self.method}{sparse}"

    @property
    def name(self):
        length = f"-{self.epochs}epochs" if self.epochs else ""
        return f"{self.family}{length}-seed{self.seed}"

    @property
    def num_epochs(self):
        return self.epochs or TASKS[self.task].epochs

    @property
    def grows(self):
        """Whether the topology changes, so that there is an interval."""
        return self.method not in ("dense", "static")


def rows(task, seeds=(0, 1, 2), sparsities=SPARSITIES):
    """The rows of a task, those first that answer most."""
    found = []
    for sparsity in sparsities:
        for seed in seeds:
            found += [Row(task, "dense", 0.0, seed)]
            found += [
                Row(task, method, sparsity, seed)
                for method in ("dst", "edst", "static")
            ]
    return list(dict.fromkeys(found))


def lengths(task, sparsity, epochs, seeds=(0, 1, 2)):
    """From how many epochs on growth pays; those of `rows` not repeated."""
    return [
        Row(task, method, sparsity, seed, epochs=count)
        for count in epochs
        for seed in seeds
        for method in ("static", "dst_random", "dst")
    ]


def family(task, sparsity, methods=FAMILY, seeds=(0, 1, 2)):
    """Single networks of several methods."""
    return [
        Row(task, method, sparsity, seed, members=1)
        for method in methods
        for seed in seeds
    ]


ROWS = [
    *rows("lenet"),
    *lengths("lenet", 0.9, epochs=(10, 40)),
    *[Row("lenet", "dst_random", 0.9, seed) for seed in (0, 1, 2)],
    *family("lenet", 0.9),
    *rows("wide_mlp", sparsities=(0.9,)),
    *rows("small_cnn", sparsities=(0.8, 0.9)),
    *rows("cifar10", seeds=(0,), sparsities=(0.8,)),
    *family("spiking_digits_plain", 0.0, ("dense",)),
    *family("spiking_digits_plain", 0.95, SPIKING),
    *family("spiking_digits", 0.0, ("dense",)),
    *family("spiking_digits", 0.95, SPIKING),
    *family("spiking_fashion", 0.0, ("dense",)),
    *family("spiking_fashion", 0.95, SPIKING),
    *family("spiking_fashion", 0.98, SPIKING),
]


class SparseTicket(TicketCheckpoint):
    """The best epoch of the last quarter.

    Before it, networks of GMP, GraNet and NDSNN are denser than their rows
    say: `recipes.sparse_training` ends a ramp after 75 % of the steps.
    """

    def __init__(self, directory, epochs):
        super().__init__(directory)
        self.first_epoch = min(math.ceil(0.75 * epochs), epochs - 1)

    def ticket_file(self, epoch):
        return super().ticket_file(epoch) if epoch >= self.first_epoch else None


class SparseTrainings(recipes.Recipe):
    """Networks trained by a method of `recipes.sparse_training`."""

    def __init__(self, method, sparsity, num_members, epochs, steps, interval):
        self.method = method
        self.sparsity = sparsity
        self.num_members = num_members
        self.epochs = epochs
        self.steps = steps
        self.update_interval = interval

    def train(self, work):
        return [self._train(work, i) for i in range(self.num_members)]

    def _train(self, work, member):
        seed = work.seed_of(member)
        training = recipes.sparse_training(
            self.method,
            self.sparsity,
            self.epochs,
            self.steps,
            update_interval=self.update_interval,
            seed=seed,
        )
        cost, *method = training.callbacks

        def network():
            dense = work.make_model(seed)
            arguments = {"seed": seed, **training.sparsify_arguments}
            return sparsify(dense, **arguments)

        return work.run(
            f"member_{member}",
            member,
            network,
            self.epochs,
            lambda folder: [*method, SparseTicket(folder, self.epochs)],
            cost,
            recipes.step_decay(self.epochs),
        )


def recipe(row, settings, epochs, members, steps):
    """The recipe of a row.

    Args:
        row: `Row`.
        settings: Dict, as they were chosen.
        epochs: Epochs of a network.
        members: Number of networks.
        steps: Optimizer updates of an epoch.
    """
    interval = settings["update_interval"]
    if row.method in FAMILY:
        return SparseTrainings(
            row.method, row.sparsity, members, epochs, steps, interval
        )
    both = {"num_members": members, "epochs": epochs}
    if row.method == "dense":
        return recipes.Dense(**both)
    both["sparsity"] = row.sparsity
    if row.method == "static":
        return recipes.Static(**both)
    if row.method in ("dst", "dst_random"):
        growth = "gradient" if row.method == "dst" else "random"
        return recipes.DST(**both, growth=growth, update_interval=interval)
    if row.method == "edst":
        # The proportions of FreeTickets: 150 and 100 epochs of 250.
        del both["epochs"]
        exploration = round(0.6 * epochs)
        return recipes.EDST(
            **both,
            exploration_epochs=exploration,
            refinement_epochs=epochs - exploration,
            update_interval=interval,
        )
    raise ValueError(f"Unknown method. Received: method={row.method!r}")


def searched(row):
    """The row for which settings are chosen: of EDST those of DST."""
    method = "dst" if row.method == "edst" else row.method
    return Row(row.task, method, row.sparsity, SEARCH_SEED)


def next_candidate(row, tried, augment=None):
    """The settings to try next, or `None` and those that were chosen.

    One axis after the other, at the best values of those before: learning
    rate, weight decay, the interval of topology updates (of rows that have
    any), and augmentation (of the dense network, for all rows of a task).

    Args:
        row: `Row` as `searched` returns it.
        tried: List of pairs: settings and their validation loss.
        augment: Name, as it was chosen for the dense network.

    Returns:
        Pair of the settings to try, `None` if none is left, and the best
        settings so far.
    """
    task = TASKS[row.task]
    axes = {"learning_rate": task.rates, "weight_decay": task.decays}
    if row.grows:
        axes["update_interval"] = task.intervals
    if row.method == "dense":
        axes["augment"] = task.augments
    best = {
        name: values[len(values) // 2 if name != "augment" else 0]
        for name, values in axes.items()
    }
    best = {"update_interval": None, "augment": augment, **best}
    losses = {_key(settings): loss for settings, loss in tried}
    for name, values in axes.items():
        on_axis = [{**best, name: value} for value in values]
        for settings in on_axis:
            if _key(settings) not in losses:
                return settings, best
        best = min(on_axis, key=lambda settings: losses[_key(settings)])
    return None, best


def _key(settings):
    return tuple(sorted(settings.items()))
