r"""Measures how far a model can be trusted, and draws it.

Accuracy, likelihood and calibration on the test images of a dataset and on
corruptions of them, how well images of other datasets are recognized as
unknown, and, for an ensemble, how its members differ. Prints the tables and
writes to --output_dir `report.html`, one page with its pictures, `report.md`
and, at the end, `report.json`. Models are named after their files.

    python examples/evaluate.py --model=run/ensemble.keras \
        --baseline=run/dense.keras --dataset=fashion_mnist \
        --ood=mnist,kmnist,noise --corruptions=all --output_dir=report/

The images are standardized as in training, so --validation_fraction and
--num_examples must be those of the training script. All test images are held
in memory.
"""

import os
from typing import Any

import classifiers
import evaluation
import image_sets
import report
import run_directory
import training_flags
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A .keras file, such as an ensemble's.")
flags.DEFINE_string("baseline", None, "Another .keras file to compare with.")
flags.DEFINE_string("dataset", "fashion_mnist", "A TFDS dataset, or optdigits.")
flags.DEFINE_list(
    "ood", "noise", "TFDS datasets of unknown images, and noise; empty: none."
)
flags.DEFINE_list(
    "corruptions", "", "Names of corruptions, or all; empty: none."
)
flags.DEFINE_bool(
    "published_corruptions",
    False,
    "Use the corrupted images of TFDS' cifar10_corrupted instead of images "
    "corrupted here; for --dataset=cifar10.",
)
flags.DEFINE_enum(
    "calibration",
    "none",
    ["none", "temperature", "vector", "isotonic", "masked_temperature"],
    "Also evaluate the models calibrated on the validation images; "
    "masked_temperature: on training images with 30 % of the values set to 0.",
)
flags.DEFINE_bool(
    "from_logits",
    None,
    "Whether --model and --baseline return logits. Default: told by their last "
    "layers.",
)
flags.DEFINE_float(
    "attack",
    None,
    "Also measure accuracy under attacks by the sign of the gradient, which "
    "move each pixel by this fraction of its range (FreeTickets: 0.0314).",
    0.0,
    1.0,
)
flags.DEFINE_integer(
    "limit", None, "Use only the first test images.", lower_bound=2
)
flags.DEFINE_bool("resize", False, "Resize images to the model's size.")
flags.DEFINE_string("output_dir", "report", "Where all files go.")
flags.DEFINE_string("data_dir", None, "Where the prepared datasets are.")
flags.DEFINE_bool("download", False, "Let TFDS download and prepare them.")
flags.DEFINE_float(
    "validation_fraction",
    0.1,
    "Fraction of the training images used for validation.",
    0.0,
    0.9,
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
    "dataset", lambda name: bool(name), "must name a dataset"
)


def main(argv: list[str]) -> None:
    run_directory.no_arguments(argv)
    run_directory.check_writable(FLAGS.output_dir)
    given = {"baseline": FLAGS.baseline, "model": FLAGS.model}
    given = {flag: path for flag, path in given.items() if path}
    names = dict(zip(given, names_of(list(given.values())), strict=True))
    networks = [
        classifiers.load(names[flag], flag, path)
        for flag, path in given.items()
    ]
    classifiers.check_alike(networks)
    images = image_sets.load(networks[-1].input_shape)
    image_sets.check_labels(images.labels, networks)
    corruptions = image_sets.chosen_corruptions(images.pixels)
    networks += classifiers.calibrated(networks, images.data)
    results, sections = evaluation.evaluate(networks, images, corruptions)
    write({"names": names, **results}, sections)


def names_of(paths: list[str]) -> list[str]:
    """Names of models: those of their files, or with their folders."""
    shorter = [os.path.abspath(path).removesuffix(".keras") for path in paths]
    for parts in (1, 2):
        names = ["/".join(path.split(os.sep)[-parts:]) for path in shorter]
        if len(set(names)) == len(names):
            return names
    return shorter


def write(results: dict[str, Any], sections: list[report.Section]) -> None:
    """Writes the page, its Markdown and, last, the JSON that marks the end."""
    folder = FLAGS.output_dir
    title = f"How far to trust {os.path.basename(FLAGS.model)}"
    for file, text in {
        "report.md": report.markdown(title, sections),
        "report.html": report.page(title, sections, folder),
    }.items():
        run_directory.write_text(os.path.join(folder, file), text)
    results = {"config": run_directory.config(), **results}
    run_directory.write_json(os.path.join(folder, "report.json"), results)
    print(report.text(sections))
    print(f"Files: {folder}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(training_flags)
    app.run(main)
