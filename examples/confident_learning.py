r"""Trains on examples of which some are wrong, and drops what tickets distrust.

    python examples/confident_learning.py
    python examples/confident_learning.py --task=labels
    python examples/confident_learning.py --task=captions --language
    python examples/confident_learning.py --dataset=fashion_mnist \
        --data_dir=../shared/tfds --num_examples=5000 --num_test=1000 \
        --seeds=0,1,2

Tasks: halves, in which two towers learn which left half of an image belongs to
which right half; captions, in which one tower reads captions of class names;
labels, the classification of images. --noise of the pairs are shuffled, or of
the labels are wrong. With --language the captions' tower also restores hidden
words of unpaired documents.

Each row is one training of --rounds rounds: no filter; the worst examples
dropped by the scores of the last ticket alone; by the sum of all tickets'
scores (confident learning); and the same, but examples that the tickets
disagree on stay. All take as many steps. The scorers are the tickets of one
EDST run as they finish, or with --scorers=snapshots one dense network every
--round_epochs. The table has the share of wrong examples after each round,
retrieval both ways (recall at 1, 5 and 10) or accuracy and calibration, of the
last model and of the mean of all (ensemble). Seeds that are done are not run
again if the script is started again with the same flags.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import confident_data
import keras
import numpy as np
import run_directory
import tables
from absl import app
from absl import flags
from absl import logging
from keras import layers

import keras_freetickets as kft
from keras_freetickets import contrastive
from keras_freetickets import curation
from keras_freetickets import metrics

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "task", "halves", ["halves", "captions", "labels"], "What is learned."
)
flags.DEFINE_enum(
    "scorers", "tickets", ["tickets", "snapshots"], "What scores examples."
)
flags.DEFINE_float("sparsity", 0.5, "Of tickets.", 0.0, 0.99)
flags.DEFINE_integer("rounds", 6, "Rounds, and tickets.", 1)
flags.DEFINE_integer("round_epochs", 8, "Epochs of each round.", 1)
flags.DEFINE_float("keep", 0.9, "Share that a round keeps.", 0.01, 1.0)
flags.DEFINE_float("floor", 0.5, "Share of all below which none goes.", 0, 1)
flags.DEFINE_boolean("language", False, "Restore hidden words (captions).")
flags.DEFINE_integer("queue_length", 0, "Images of earlier batches.", 0)
flags.DEFINE_integer("batch_size", 100, "Examples of a batch.", 2)
flags.DEFINE_integer("units", 128, "Units of hidden layers.", 1)
flags.DEFINE_integer("dimensions", 32, "Of the vectors.", 1)
flags.DEFINE_float("scale", 10.0, "The first scale, 1 / temperature.", 0.1, 100)
flags.DEFINE_float("learning_rate", 2e-3, "Of Adam.", 1e-9)
flags.DEFINE_list("seeds", ["0"], "Seeds to run; the table is their mean.")
flags.DEFINE_integer("verbose", 0, "0, 1 or 2, as of Keras' fit.", 0, 2)
flags.DEFINE_string("output_dir", "runs/confident", "Where files go.")
flags.adopt_module_key_flags(confident_data)

ROWS: dict[str, dict[str, Any]] = {
    "no filter": {"keep": 1.0},
    "last only": {"accumulate": False},
    "confident": {},
    "confident, disputed stay": {"spare_disputed": True},
}


class Labels:
    """Classification of images whose labels are partly wrong."""

    def __init__(self, data: confident_data.Examples) -> None:
        self.data = data
        self.members: list[keras.Model] = []

    def model(self, seed: int) -> keras.Model:
        inputs = keras.Input(self.data.x.shape[1:])
        x = layers.Dense(FLAGS.units, "relu")(layers.Flatten()(inputs))
        x = layers.Dense(FLAGS.units // 2, "relu")(x)
        model = keras.Model(inputs, layers.Dense(10, "softmax")(x))
        return sparse(model, seed, loss="sparse_categorical_crossentropy")

    def score(self, model: keras.Model, indices: np.ndarray) -> np.ndarray:
        assert self.data.y is not None
        self.members.append(copy_of(model))
        p = model.predict(self.data.x[indices], verbose=0)
        return curation.label_scores(p, self.data.y[indices])

    def row(self) -> dict[str, float]:
        """Accuracy and calibration of the last model and of the ensemble."""
        found = {}
        for name, members in (
            ("", self.members[-1:]),
            ("ensemble_", self.members),
        ):
            ensemble = kft.EnsembleModel(members)
            p = ensemble.predict(self.data.test_x, verbose=0)
            y = self.data.test_y
            found[f"{name}accuracy"] = float(np.mean(p.argmax(-1) == y))
            scaled = kft.calibration.calibrate(ensemble, *self.data.calibration)
            for suffix, q in (
                ("", p),
                ("_scaled", scaled.predict(self.data.test_x, verbose=0)),
            ):
                ece = metrics.expected_calibration_error(y, q)
                found[f"{name}ece{suffix}"] = float(ece)
                nll = metrics.negative_log_likelihood(y, q)
                found[f"{name}nll{suffix}"] = float(np.mean(nll))
        return found


class Pairs:
    """Two towers that learn which text belongs to which image."""

    def __init__(self, data: confident_data.Examples) -> None:
        self.data = data
        self.similarities: list[np.ndarray] = []
        self.encoder: Any = None
        self.words: Any = None
        self.hidden = contrastive.MaskedTokens(
            len(data.vocabulary), mask_token=1, first_token=3
        )

    def model(self, seed: int) -> keras.Model:
        text, image = (
            keras.Input(one.shape[1:], name=name, dtype=one.dtype.name)
            for name, one in self.data.x.items()
        )
        inputs = {"text": text, "image": image}
        x, tower = text, None
        if FLAGS.task == "captions":
            tower = text_tower(len(self.data.vocabulary))
            x = layers.GlobalAveragePooling1D()(tower(text))
        texts = contrastive.LearnedScale(FLAGS.scale)(two_layers(x))
        outputs = [texts, layers.UnitNormalization()(two_layers(image))]
        if tower is not None and FLAGS.language:
            documents = keras.Input((FLAGS.context,), name="documents")
            inputs["documents"] = documents
            head = layers.Dense(len(self.data.vocabulary), name="words")
            outputs.append(head(tower(documents)))
        model = sparse(keras.Model(inputs, outputs), seed)
        objective = contrastive.Contrastive(
            FLAGS.dimensions, FLAGS.queue_length
        )
        model.set_objective(objective)
        made = dict(model.input)
        if len(outputs) == 3:
            model.add_batch_transform(self.hidden)
            tokens = made.pop("documents")
            self.words = keras.Model(tokens, model.output[2])
        self.encoder = keras.Model(made, model.output[:2])
        return model

    def score(self, model: keras.Model, indices: np.ndarray) -> np.ndarray:
        test = self.encoder.predict(self.data.test_x, verbose=0)
        self.similarities.append(contrastive.similarities(*test))
        x = {name: one[indices] for name, one in self.data.x.items()}
        return contrastive.pair_cosines(*self.encoder.predict(x, verbose=0))

    def row(self) -> dict[str, float]:
        """Recall of the last model and of the mean of all, both ways."""
        found = {}
        labels = None
        if FLAGS.task == "captions":  # a caption only tells the class
            labels = self.data.test_y, self.data.test_y
        for name, scores in (
            ("", self.similarities[-1]),
            ("ensemble_", np.mean(self.similarities, axis=0)),
        ):
            for way, one in (("", scores), ("back_", scores.T)):
                for k, recall in contrastive.recall_at(
                    one, labels=labels
                ).items():
                    found[f"{name}{way}r{k}"] = recall
        if self.words is not None:
            tokens, targets = self.hidden.hidden(self.data.held_out, 0)
            tokens = keras.ops.convert_to_numpy(tokens)
            logits = self.words.predict(tokens, verbose=0)
            loss = contrastive.masked_token_loss(targets, logits)
            found["word_loss"] = float(loss)
        return found


def two_layers(x: Any) -> Any:
    x = layers.Flatten()(x)
    x = layers.Dense(FLAGS.units, "relu")(x)
    return layers.Dense(FLAGS.dimensions)(x)


def text_tower(vocabulary_size: int) -> keras.Model:
    """Tokens to a vector for each, which depends on its neighbours."""
    tokens = keras.Input((FLAGS.context,))
    x = layers.Embedding(vocabulary_size, FLAGS.units)(tokens)
    for _ in range(2):
        x = layers.Conv1D(FLAGS.units, 3, padding="same", activation="relu")(x)
    return keras.Model(tokens, x, name="text_tower")


def sparse(model: keras.Model, seed: int, **compiled: Any) -> keras.Model:
    sparsity = FLAGS.sparsity if FLAGS.scorers == "tickets" else 0.0
    model = kft.sparsify(model, sparsity, seed=seed)
    model.compile(keras.optimizers.Adam(FLAGS.learning_rate), **compiled)
    return model


def copy_of(model: keras.Model) -> keras.Model:
    """A copy that the training does not change."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights()[: len(copy.weights)])
    return copy


def train(
    data: confident_data.Examples, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """One row: a training whose tickets drop examples."""
    keras.utils.set_random_seed(seed)
    task = (Labels if FLAGS.task == "labels" else Pairs)(data)
    model = task.model(seed)
    rule = {"keep": FLAGS.keep, "floor": FLAGS.floor} | settings
    nested = curation.NestedFilter(len(data.wrong), **rule)
    language = FLAGS.language and FLAGS.task == "captions"
    with run_directory.naming(f"--batch_size={FLAGS.batch_size}"):
        batches = curation.FilteredBatches(
            data.x,
            data.y,
            nested,
            FLAGS.batch_size,
            documents={"documents": data.documents} if language else None,
            seed=seed,
        )
    shares: list[float] = []

    def score(model: keras.Model, indices: np.ndarray) -> np.ndarray:
        if nested.rounds:
            shares.append(float(np.mean(data.wrong[indices])))
        return task.score(model, indices)

    with tempfile.TemporaryDirectory() as directory:
        run(model, batches, nested, score, directory)
    shares.append(float(np.mean(data.wrong[nested.active])))
    row: dict[str, Any] = {
        f"wrong_{number}": share for number, share in enumerate(shares, 1)
    }
    dropped = np.setdiff1d(np.arange(len(data.wrong)), nested.active)
    row["left"] = len(nested.active) / len(data.wrong)
    right = np.sum(~data.wrong[dropped])
    row["right_dropped"] = float(right / max(len(dropped), 1))
    return row | task.row()


def run(
    model: keras.Model,
    batches: curation.FilteredBatches,
    nested: curation.NestedFilter,
    score: Callable[[keras.Model, np.ndarray], np.ndarray],
    directory: str,
) -> None:
    """Trains for all rounds; examples are scored at the end of each."""
    edst = kft.callbacks.EDST(
        FLAGS.round_epochs,
        FLAGS.round_epochs,
        FLAGS.rounds,
        update_interval=batches.num_batches,
        learning_rate=None,
        monitor=None,
        directory=directory,
    )
    ends = [phase.stop_epoch - 1 for phase in edst.phases[1:]]
    callbacks = [
        batches.epoch_order(),
        *([edst] if FLAGS.scorers == "tickets" else []),
        curation.ConfidentLearning(nested, score, ends),
    ]
    model.fit(
        batches,
        epochs=edst.epochs,
        verbose=FLAGS.verbose,
        callbacks=callbacks,
    )


def run_seed(seed: int) -> dict[str, dict[str, Any]]:
    data = confident_data.load(FLAGS.task, seed)
    rows = {}
    for name, settings in ROWS.items():
        print(f"Seed {seed}: {name}", flush=True)
        rows[name] = train(data, seed, settings)
    return rows


def report(found: list[dict[str, dict[str, Any]]]) -> str:
    """Mean and standard deviation over seeds, as a table."""
    heads = list(found[0]["confident"])
    lines = [["", *found[0]]]
    for key in heads:
        cells = [key]
        for name in found[0]:
            values = [rows[name][key] for rows in found]
            cells.append(f"{np.mean(values):.3f}±{np.std(values):.3f}")
        lines.append(cells)
    return tables.aligned(lines)


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    if FLAGS.language and FLAGS.task != "captions":
        raise SystemExit("--language needs --task=captions")
    found = run_directory.rows_of_seeds(FLAGS.seeds, run_seed)
    run_directory.write_metrics(found)
    print(report(found))
    print(f"Files: {FLAGS.output_dir}")


if __name__ == "__main__":
    app.run(main)
