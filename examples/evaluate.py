r"""Measures how far a model can be trusted, and draws it.

Accuracy, likelihood and calibration on the test images of a set, on
corruptions of them, and how well images of other sets are told apart; for an
ensemble what its members differ in. Prints the tables, and writes
`report.html`, one page that holds its pictures, `report.md` and, at the end,
`report.json` to --output_dir. Models go by the names of their files.

    python examples/evaluate.py --model=run/ensemble.keras \
        --baseline=run/dense.keras --dataset=fashion_mnist \
        --ood=mnist,kmnist,noise --corruptions=all --output_dir=report/

The images are standardized as in training, so --validation_fraction and
--num_examples must be those of the training script. All test images are held
in memory.
"""

import dataclasses
import functools
import os
import typing

import common
import measures
import report
import sections
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A .keras file, such as an ensemble's.")
flags.DEFINE_string("baseline", None, "Another .keras file to compare with.")
flags.DEFINE_string("dataset", "fashion_mnist", "A TFDS set, or optdigits.")
flags.DEFINE_list(
    "ood", "noise", "TFDS sets of unknown images, and noise; empty: none."
)
flags.DEFINE_list(
    "corruptions", "", "Names of corruptions, or all; empty: none."
)
flags.DEFINE_bool(
    "published_corruptions",
    False,
    "Take the corrupted images of TFDS' cifar10_corrupted in the place of "
    "images corrupted here; for --dataset=cifar10.",
)
flags.DEFINE_enum(
    "calibration",
    "none",
    ["none", "temperature", "vector", "isotonic", "masked_temperature"],
    "Also evaluate the models calibrated on the validation images; masked: on "
    "training images with 30 % of the values set to zero.",
)
flags.DEFINE_bool(
    "from_logits",
    None,
    "Whether --model and --baseline return logits. Default: as their last "
    "layers tell.",
)
flags.DEFINE_float(
    "attack",
    None,
    "Also measure accuracy under attacks by the sign of the gradient, which "
    "move each pixel by this share of its range (FreeTickets: 0.0314).",
    0.0,
    1.0,
)
flags.DEFINE_integer(
    "limit", None, "Use only the first test images.", lower_bound=2
)
flags.DEFINE_bool("resize", False, "Resize images to the model's size.")
flags.DEFINE_string("output_dir", "report", "Where everything goes.")
flags.DEFINE_string("data_dir", None, "Where the prepared sets lie.")
flags.DEFINE_bool("download", False, "Let TFDS download and prepare them.")
flags.DEFINE_float(
    "validation_fraction", 0.1, "Last part of training images.", 0.0, 0.9
)
flags.DEFINE_integer(
    "num_examples", None, "Training images used. Default: all.", lower_bound=1
)
flags.mark_flag_as_required("model")
flags.register_validator(
    "model", lambda path: os.path.isfile(path or ""), "must be a .keras file"
)
flags.register_validator(
    "baseline",
    lambda path: path is None or os.path.isfile(path),
    "must be a .keras file",
)
flags.register_validator(
    "dataset", lambda name: bool(name), "must name a data set"
)

# Floats that were standardized come back within rounding.
_SLACK = 1e-3


# What is evaluated.


@dataclasses.dataclass
class Predictions:
    """What a model says of images; `None` for what it has not.

    Attributes:
        probabilities: Array `(examples, classes)`.
        members: Array `(members, examples, classes)`.
        logits: Array `(members or 1, examples, classes)`.
    """

    probabilities: typing.Any
    members: typing.Any = None
    logits: typing.Any = None


@dataclasses.dataclass
class Network:
    """A model, with the flag that named it for messages."""

    name: str
    model: typing.Any
    flag: str

    @property
    def is_ensemble(self):
        return hasattr(self.model, "predict_members")

    @functools.cached_property
    def parts(self):
        """The members, or the model itself, without their softmax."""
        from keras_freetickets import ensembles

        parts = [self.model]
        if hasattr(self.model, "member"):
            count = self.model.num_members
            parts = [self.model.member(i) for i in range(count)]
        found = [ensembles.logits_model(part) for part in parts]
        return None if None in found else found

    def predict(self, images, with_logits=False):
        """Predictions, checked to be finite."""
        import numpy as np

        from keras_freetickets import ensembles

        size = FLAGS.batch_size
        if self.is_ensemble:
            members = self.model.predict_members(images, batch_size=size)
            members = ensembles.renormalized(members)
            made = Predictions(members.mean(axis=0), members)
        else:
            values = self.model.predict(images, batch_size=size, verbose=0)
            made = Predictions(self.as_probabilities(values))
        if not np.isfinite(made.probabilities).all():
            raise SystemExit(f"{self.flag} predicts NaN or infinite values")
        if with_logits and self.parts:
            made.logits = np.stack(
                [
                    part.predict(images, batch_size=size, verbose=0)
                    for part in self.parts
                ]
            ).astype("float32")
        return made

    def as_probabilities(self, values):
        """Distributions, whatever the model returns."""
        from keras import ops

        from keras_freetickets import ensembles

        from_logits = FLAGS.from_logits
        if getattr(self.model, "returns_probabilities", False):
            from_logits = False
        if from_logits is None:
            try:
                from_logits = ensembles.returns_logits(self.model, values)
            except ValueError as error:
                raise SystemExit(f"{self.flag}: {error}") from error
        if from_logits:
            return ops.convert_to_numpy(ops.softmax(values))
        return ensembles.renormalized(values)


def load_network(name, flag, path):
    """Loads a model; refuses what does not classify images."""
    import keras

    import keras_freetickets  # noqa: F401, whose classes are loaded

    flag = f"--{flag}={path}"
    try:
        model = keras.saving.load_model(path)
    except Exception as error:
        raise SystemExit(f"{flag} cannot be loaded: {error}") from error
    try:
        shape = input_shape(model)
    except (AttributeError, TypeError, ValueError) as error:
        raise SystemExit(
            f"{flag} must be a Functional or Sequential model, an "
            "EnsembleModel or a CalibratedModel, and is a "
            f"{type(model).__name__}"
        ) from error
    outputs = model.compute_output_shape((None, *shape))
    if len(shape) != 3 or len(outputs) != 2 or outputs[1] == 1:
        raise SystemExit(
            f"{flag} must map images (height, width, channels) to scores of "
            f"two classes or more, and maps {shape} to {outputs[1:]}"
        )
    return Network(name, model, flag)


def input_shape(model):
    """Shape of one image that a model takes."""
    model = getattr(model, "model", model)  # of a CalibratedModel
    member = model.member(0) if hasattr(model, "member") else model
    return tuple(member.inputs[0].shape[1:])


def names_of(paths):
    """Names to tell models by: those of their files, else of their folders."""
    shorter = [path.removesuffix(".keras") for path in paths]
    for parts in (1, 2):
        names = ["/".join(path.split(os.sep)[-parts:]) for path in shorter]
        if len(set(names)) == len(names):
            return names
    return shorter


def check_alike(networks):
    """Refuses models that take images of different shapes."""
    shapes = {n.flag: input_shape(n.model) for n in networks}
    if len(set(shapes.values())) > 1:
        taken = " and ".join(f"{flag} {s}" for flag, s in shapes.items())
        raise SystemExit(
            f"--model and --baseline must take the same images: {taken}"
        )


def calibrated(networks, data):
    """The networks behind calibrators fitted to the validation images."""
    import keras_freetickets as kft

    if FLAGS.calibration == "none":
        return []
    kind = FLAGS.calibration.removeprefix("masked_")
    masked = kind != FLAGS.calibration
    held_out = data.train if masked else data.validation
    if held_out is None:
        raise SystemExit(
            f"--calibration={FLAGS.calibration} needs validation images: "
            "--validation_fraction must be above 0"
        )
    made = []
    for network in networks:
        orders = ["pool_first"]
        orders += ["members_first"] if network.is_ensemble else []
        for order in orders:
            model = kft.calibration.calibrate(
                network.model,
                held_out,
                None,
                kind,
                order,
                FLAGS.from_logits if not network.is_ensemble else None,
                input_mask_ratio=0.3 if masked else 0.0,
                num_draws=1,
                seed=FLAGS.seed,
            )
            name = f"{network.name}, {FLAGS.calibration.replace('_', ' ')}"
            if network.is_ensemble:
                name = f"{name}, {order.replace('_', ' ')}"
            made.append(Network(name, model, network.flag))
    return made


# Images.


@dataclasses.dataclass
class Images:
    """Test images as the models take them, as pixels, and their labels."""

    data: typing.Any
    x: typing.Any
    pixels: typing.Any
    labels: typing.Any

    def standardized(self, pixels):
        import numpy as np

        values = (pixels / np.float32(255) - self.data.mean) / self.data.std
        return values.astype("float32")

    def corrupted(self, name, severities):
        """Standardized images of a corruption, one severity after another."""
        import numpy as np

        import keras_freetickets as kft

        if not FLAGS.published_corruptions:
            made = [
                kft.datasets.corrupt(self.pixels, name, level, FLAGS.seed)
                for level in severities
            ]
            return self.standardized(np.concatenate(made))
        flag = f"--published_corruptions --data_dir={FLAGS.data_dir}"
        made = []
        for level in severities:
            try:
                batches = kft.datasets.load_corrupted(
                    name,
                    level,
                    like=self.data,
                    batch_size=FLAGS.batch_size,
                    data_dir=FLAGS.data_dir,
                    download=FLAGS.download,
                )
            except ValueError as error:
                raise SystemExit(f"{flag}: {error}") from error
            x, labels = read(flag, batches)
            if not np.array_equal(labels, self.labels):
                raise SystemExit(
                    f"{flag} holds other labels than the test images of "
                    f"--dataset={FLAGS.dataset}"
                )
            made.append(x)
        return np.concatenate(made)


def load_images(shape):
    """The set and its test images; anything unfit is refused by name."""
    import keras_freetickets as kft

    flag = f"--dataset={FLAGS.dataset}"
    try:
        data = kft.datasets.load(
            FLAGS.dataset,
            batch_size=FLAGS.batch_size,
            validation_fraction=FLAGS.validation_fraction,
            num_examples=FLAGS.num_examples,
            seed=FLAGS.seed,
            data_dir=FLAGS.data_dir,
            image_size=shape[:2] if FLAGS.resize else None,
            download=FLAGS.download,
        )
    except ValueError as error:
        raise SystemExit(f"{flag}: {error}") from error
    check_shape(flag, data.input_shape, shape)
    x, labels = read(flag, data.test)
    return Images(data, x, as_pixels(flag, x, data), labels)


def check_shape(flag, shape, wanted):
    if tuple(shape) != tuple(wanted):
        advice = "" if FLAGS.resize else " (--resize changes height and width)"
        raise SystemExit(
            f"{flag} has images of shape {tuple(shape)} and --model takes "
            f"{tuple(wanted)}{advice}"
        )


def read(flag, batches):
    """The first images and labels of a data set as arrays."""
    import numpy as np

    images, labels, count = [], [], 0
    for batch in [] if batches is None else batches.as_numpy_iterator():
        images.append(batch[0])
        labels.append(batch[1])
        count += len(batch[0])
        if FLAGS.limit and count >= FLAGS.limit:
            break
    if not count:
        raise SystemExit(f"{flag} has no test images")
    whole = [np.concatenate(parts) for parts in (images, labels)]
    return [array[: FLAGS.limit] for array in whole]


def as_pixels(flag, x, data):
    """Standardized images as uint8."""
    import numpy as np

    values = x * np.float32(data.std) + np.float32(data.mean)
    low, high = values.min(), values.max()
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise SystemExit(
            f"{flag} must have pixels from 0 to 255, and has them from "
            f"{255 * low:.4g} to {255 * high:.4g}"
        )
    return np.rint(255 * values.clip(0, 1)).astype("uint8")


def check_labels(labels, networks):
    """Refuses labels that a model cannot predict, and those of one class."""
    import numpy as np

    for network in networks:
        shape = network.model.compute_output_shape(
            (None, *input_shape(network.model))
        )
        if labels.min() < 0 or labels.max() >= shape[1]:
            raise SystemExit(
                f"--dataset={FLAGS.dataset} has labels from {labels.min()} to "
                f"{labels.max()}, and {network.flag} predicts {shape[1]} "
                "classes"
            )
    if len(np.unique(labels)) < 2:
        raise SystemExit(
            f"--dataset={FLAGS.dataset} --limit={FLAGS.limit} has test images "
            f"of one class only, {labels[0]}; two or more are needed"
        )


def load_unknown(name, images):
    """Images of no known class: of another set, or noise."""
    import numpy as np

    import keras_freetickets as kft

    if name == "noise":
        # As FreeTickets has it: normal, of mean 1/2, deviation 1/4, cut off.
        generator = np.random.default_rng(FLAGS.seed)
        noise = generator.normal(0.5, 0.25, images.pixels.shape).clip(0, 1)
        return images.standardized(np.rint(255 * noise))
    flag = f"--ood={name}"
    shape = images.x.shape[1:]
    try:
        batches = kft.datasets.load_test(
            name,
            like=images.data,
            batch_size=FLAGS.batch_size,
            data_dir=FLAGS.data_dir,
            image_size=shape[:2] if FLAGS.resize else None,
            download=FLAGS.download,
        )
    except ValueError as error:
        raise SystemExit(f"{flag}: {error}") from error
    check_shape(flag, batches.element_spec[0].shape[1:], shape)
    return read(flag, batches)[0]


def chosen_corruptions(pixels):
    """The corruptions that the flag names, if they fit the images."""
    import keras_freetickets as kft

    names = FLAGS.corruptions
    if FLAGS.published_corruptions and not names:
        raise SystemExit(
            "--published_corruptions needs --corruptions: names of them, or all"
        )
    names = kft.datasets.CORRUPTIONS if names == ["all"] else names
    for name in names:
        try:
            kft.datasets.corrupt(pixels[:1], name, 1)
        except ValueError as error:
            raise SystemExit(f"--corruptions={name}: {error}") from error
    return list(names)


# The evaluation.


def evaluate(networks, images, names):
    """All figures, for report.json, and the sections that show them."""
    labels, classes = images.labels, images.data.num_classes
    made = {
        network.name: network.predict(images.x, with_logits=bool(FLAGS.ood))
        for network in networks
    }
    rows = {}
    for name, one in made.items():
        for i, member in enumerate([] if one.members is None else one.members):
            rows[f"{name}: ticket {i}"] = measures.scores(
                member, labels, classes
            )
        rows[name] = measures.scores(one.probabilities, labels, classes)
    results = {"clean": rows}
    parts = [sections.clean_images(rows, made, labels, classes)]
    if FLAGS.ood:
        results["ood"], section = evaluate_unknown(networks, images, made)
        parts.append(section)
    if names:
        found = measures.under_corruption(networks, images, names)
        results["corruptions"] = found
        parts.append(sections.corrupted_images(found, rows))
    if FLAGS.attack:
        found = measures.under_attack(networks, images, FLAGS.attack)
        results["attack"] = found
        parts.append(sections.attacked_images(found, rows, FLAGS.attack))
    for network in networks:
        members = made[network.name].members
        if members is not None and len(members) > 1:
            found = measures.diversity(network, members, labels, classes)
            results.setdefault("diversity", {})[network.name] = found
            parts.append(
                sections.members_apart(network.name, found, members, labels)
            )
    return results, parts


def evaluate_unknown(networks, images, made):
    classes = images.data.num_classes
    known = {
        name: measures.confidences(one, classes) for name, one in made.items()
    }
    unknown, found = {}, {}
    for name in FLAGS.ood:
        print(f"Unknown images: {name}", flush=True)
        x = load_unknown(name, images)
        unknown[name] = {
            n.name: measures.confidences(n.predict(x, True), classes)
            for n in networks
        }
        found[name] = {
            model: {
                score: measures.detection(known[model][score], values)
                for score, values in kinds.items()
            }
            for model, kinds in unknown[name].items()
        }
    return found, sections.unknown_images(found, known, unknown)


def main(argv):
    common.no_arguments(argv)
    common.check_writable(FLAGS.output_dir)
    given = {"baseline": FLAGS.baseline, "model": FLAGS.model}
    given = {flag: path for flag, path in given.items() if path}
    names = dict(
        zip(
            given,
            names_of([os.path.abspath(p) for p in given.values()]),
            strict=True,
        )
    )
    networks = [
        load_network(names[flag], flag, path) for flag, path in given.items()
    ]
    check_alike(networks)
    images = load_images(input_shape(networks[-1].model))
    check_labels(images.labels, networks)
    corruptions = chosen_corruptions(images.pixels)
    networks += calibrated(networks, images.data)
    results, parts = evaluate(networks, images, corruptions)
    write({"names": names, **results}, parts)


def write(results, parts):
    """The page, its Markdown and, as the sign that all is done, the JSON."""
    folder = FLAGS.output_dir
    title = f"How far to trust {os.path.basename(FLAGS.model)}"
    text = report.markdown(title, parts)
    common.write_text(os.path.join(folder, "report.md"), text)
    text = report.page(title, parts, folder)
    common.write_text(os.path.join(folder, "report.html"), text)
    results = {"config": common.config(), **results}
    common.write_json(os.path.join(folder, "report.json"), results)
    print(report.text(parts))
    print(f"Files: {folder}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(common)
    app.run(main)
