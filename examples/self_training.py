r"""Trains on few labels and many unlabelled images, some of no known class.

    python examples/self_training.py
    python examples/self_training.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --labels_per_class=20 --seeds=0,1,2

Teachers are trained on a few labels of each class, vote on the unlabelled
images, and a student is trained on those that they can be trusted in. The rows:
a dense network that sees the labels alone (supervised); one teacher, and the
mean of all; students of one teacher (vanilla) and of all, with hard and with
soft labels; a sparse student. Scores are those on test images, before and after
one temperature, which is fitted on held-out labels.

With --dataset=optdigits (the default, scikit-learn's digits) the images of
the classes 8 and 9 are unlabelled images of no known class; with fashion_mnist
those of MNIST and KMNIST. Teachers are by default the tickets of one EDST run.
If the script is killed, start it again with the same flags: it resumes.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import run_directory
import self_training_data
import tables
from absl import app
from absl import flags
from absl import logging

import keras_freetickets as kft
from keras_freetickets import curation
from keras_freetickets import metrics

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "teachers", "edst", ["edst", "dst", "dense"], "How teachers are made."
)
flags.DEFINE_integer("num_teachers", 5, "Teachers.", lower_bound=1)
flags.DEFINE_float("sparsity", 0.8, "Of sparse networks.", 0.0, 0.99)
flags.DEFINE_integer("teacher_epochs", 30, "Of 50 steps.", lower_bound=2)
flags.DEFINE_integer("student_epochs", 15, "Of --student_steps.", 1)
flags.DEFINE_integer("student_steps", 100, "Steps of a student's epoch.", 1)
flags.DEFINE_integer("rounds", 1, "Rounds; more: students teach.", 1, 3)
flags.DEFINE_float("min_agreement", 1.0, "Share of teachers.", 0.0, 1.0)
flags.DEFINE_float("min_confidence", 0.9, "Mean probability.", 0.0, 1.0)
flags.DEFINE_float("pseudo_weight", 1.0, "Of their loss.", 0.0)
flags.DEFINE_integer("batch_size", 128, "Images of a batch.", 4)
flags.DEFINE_float("learning_rate", 3e-3, "Of Adam.", 1e-9)
flags.DEFINE_list("hidden", ["128", "64"], "Units of the hidden layers.")
flags.DEFINE_list("seeds", ["0"], "Seeds to run; the table is their mean.")
flags.DEFINE_integer("verbose", 0, "0, 1 or 2, as of Keras' fit.", 0, 2)
flags.DEFINE_string("output_dir", "runs/self_training", "Where files go.")
flags.adopt_module_key_flags(self_training_data)

TEACHER_STEPS = 50
COLUMNS = ("accuracy", "nll", "ece", "nll_scaled", "ece_scaled", "seconds")


@dataclasses.dataclass
class Trainer:
    """Trains networks of one seed, each in a directory of its own."""

    data: self_training_data.Images
    seed: int
    directory: str

    def network(self, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        layers = [keras.Input(self.data.x.shape[1:]), keras.layers.Flatten()]
        for units in map(int, FLAGS.hidden):
            layers.append(keras.layers.Dense(units, activation="relu"))
            layers.append(keras.layers.Dropout(0.3))
        layers.append(keras.layers.Dense(self.data.classes, "softmax"))
        return keras.Sequential(layers)

    def fit(
        self,
        name: str,
        recipe: kft.recipes.Recipe,
        batches: Callable[[int], curation.MixedBatches],
    ) -> kft.EnsembleModel:
        """Trains by a recipe on batches of a seed, or resumes."""
        print(f"Seed {self.seed}: {name}", flush=True)

        def arguments(seed: int) -> dict[str, Any]:
            own = batches(seed)
            return {
                "x": own,
                "shuffle": False,  # in the order of the seed and the epoch
                "callbacks": [own.epoch_order()],
            }

        return recipe.fit(
            self.network,
            compile_model,
            arguments,
            os.path.join(self.directory, name),
            self.seed,
            FLAGS.verbose,
        )


def compile_model(model: keras.Model) -> None:
    model.compile(
        keras.optimizers.Adam(FLAGS.learning_rate), "categorical_crossentropy"
    )


def teachers_recipe() -> kft.recipes.Recipe:
    """Teachers of equal length; the tickets of EDST share half of it."""
    epochs, count = FLAGS.teacher_epochs, FLAGS.num_teachers
    if FLAGS.teachers == "dense":
        return kft.recipes.Dense(num_members=count, epochs=epochs, monitor=None)
    shared: dict[str, Any] = {
        "sparsity": FLAGS.sparsity,
        "num_members": count,
        "update_interval": TEACHER_STEPS,
        "monitor": None,
    }
    if FLAGS.teachers == "dst":
        return kft.recipes.DST(epochs=epochs, **shared)
    half = epochs // 2
    return kft.recipes.EDST(
        exploration_epochs=epochs - half, refinement_epochs=half, **shared
    )


def student_recipe(sparse: bool, members: int = 1) -> kft.recipes.Recipe:
    if not sparse:
        return kft.recipes.Dense(
            num_members=members, epochs=FLAGS.student_epochs, monitor=None
        )
    return kft.recipes.DST(
        epochs=FLAGS.student_epochs,
        sparsity=FLAGS.sparsity,
        num_members=members,
        update_interval=FLAGS.student_steps,
        monitor=None,
    )


def student_batches(
    data: self_training_data.Images, chosen: curation.PseudoLabels
) -> Callable[[int], curation.MixedBatches]:
    def jitter(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        noise = generator.normal(0, 0.1, x.shape)
        return (x + noise).astype("float32")

    return lambda seed: curation.MixedBatches(
        data.x,
        data.targets,
        data.unlabelled[chosen.indices],
        chosen.targets,
        batch_size=FLAGS.batch_size,
        pseudo_weight=FLAGS.pseudo_weight,
        steps_per_epoch=FLAGS.student_steps,
        augment=jitter,
        seed=seed,
    )


def row_of(
    data: self_training_data.Images,
    model: kft.EnsembleModel,
    chosen: curation.PseudoLabels | None = None,
) -> dict[str, float]:
    """Scores before and after a temperature; what was selected."""
    scaled = kft.calibration.calibrate(
        model, data.calibration_x, data.calibration_y
    )
    row = {}
    for suffix, one in (("", model), ("_scaled", scaled)):
        p = one.predict(data.test_x, verbose=0)
        row["accuracy"] = float(np.mean(p.argmax(-1) == data.test_y))
        nll = metrics.negative_log_likelihood(data.test_y, p)
        row[f"nll{suffix}"] = float(np.mean(nll))
        ece = metrics.expected_calibration_error(data.test_y, p)
        row[f"ece{suffix}"] = float(ece)
    if chosen is not None:
        row |= data.quality_of(chosen)
    return row


def run_seed(seed: int) -> dict[str, dict[str, float]]:
    """All rows of one seed."""
    directory = os.path.join(FLAGS.output_dir, f"seed_{seed}")
    data = self_training_data.load(seed)
    trainer = Trainer(data, seed, directory)

    def labelled(seed: int) -> curation.MixedBatches:
        return curation.MixedBatches(
            data.x,
            data.targets,
            batch_size=min(FLAGS.batch_size, max(2, len(data.x))),
            steps_per_epoch=TEACHER_STEPS,
            seed=seed,
        )

    dense = trainer.network(seed)
    recipe = teachers_recipe()
    bank = trainer.fit("teachers", recipe, labelled)
    members = bank.predict_members(data.unlabelled)
    disagreement = float(np.mean(metrics.disagreement(members)))
    print(f"Seed {seed}: teachers disagree on {disagreement:.1%} of pairs")
    alone = student_recipe(sparse=False)
    supervised = trainer.fit("supervised", alone, labelled)
    rows = {
        "supervised": row_of(data, supervised) | costs_of(alone, dense),
        "one teacher": row_of(data, kft.EnsembleModel([bank.member(0)])),
        "mean of teachers": row_of(data, bank),
    }
    rows["mean of teachers"] |= costs_of(recipe, dense)

    everyone = {
        "min_agreement": FLAGS.min_agreement,
        "min_confidence": FLAGS.min_confidence,
    }
    anyone = {"min_agreement": 0.0, "min_confidence": 0.0, "balanced": False}
    students: dict[str, tuple[Any, dict[str, Any], bool]] = {
        "vanilla, all, hard": (members[:1], {**anyone, "soft": False}, False),
        "vanilla, hard": (members[:1], {**everyone, "soft": False}, False),
        "ensemble, hard": (members, {**everyone, "soft": False}, False),
        "ensemble, soft": (members, everyone, False),
        "ensemble, soft, sparse student": (members, everyone, True),
    }
    for name, (voters, rule, sparse) in students.items():
        chosen = curation.pseudo_labels(voters, **rule)
        folder = name.replace(", ", "_").replace(" ", "_")
        for number in range(1, FLAGS.rounds if voters is members else 1):
            several = student_recipe(sparse, FLAGS.num_teachers)
            taught = trainer.fit(
                f"{folder}_{number}", several, student_batches(data, chosen)
            )
            again = taught.predict_members(data.unlabelled)
            chosen = curation.pseudo_labels(again, **rule)
        one = student_recipe(sparse)
        student = trainer.fit(folder, one, student_batches(data, chosen))
        rows[name] = row_of(data, student, chosen) | costs_of(one, dense)
    return rows


def costs_of(recipe: Any, network: keras.Model) -> dict[str, float]:
    """Seconds; training FLOPs relative to as many epochs of one dense one."""
    logs = [run.history for run in recipe.runs]
    epochs = getattr(recipe, "epochs", FLAGS.teacher_epochs)
    dense = 3 * metrics.flops.forward_flops(network)
    return {
        "seconds": sum(sum(one["seconds"]) for one in logs),
        "train_flops": recipe.training_flops() / (dense * epochs),
    }


def report(found: list[dict[str, dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds, as a table."""
    heads = [*COLUMNS, "train_flops", "kept", "foreign", "label_accuracy"]
    lines = [["model", *heads]]
    for name in found[0]:
        cells = [name]
        for key in heads:
            values = [rows[name][key] for rows in found if key in rows[name]]
            cells.append(
                f"{np.mean(values):.4f}±{np.std(values):.4f}" if values else ""
            )
        lines.append(cells)
    return tables.aligned(lines)


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    found = run_directory.rows_of_seeds(FLAGS.seeds, run_seed)
    run_directory.write_metrics(found)
    print(report(found))
    print(f"Files: {FLAGS.output_dir}")


if __name__ == "__main__":
    app.run(main)
