"""`python -m keras_freetickets export model.keras model.tflite`."""

import argparse
import os
import sys
import typing
from collections.abc import Sequence

import keras
import numpy as np

from keras_freetickets.deployment.exporting import export
from keras_freetickets.deployment.formats import DTYPES
from keras_freetickets.deployment.formats import names
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.files import atomic_path

_ERRORS = (ImportError, OSError, RuntimeError, TypeError, ValueError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m keras_freetickets")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "export",
        help="write a model for a runtime, load it there and compare",
        description="Writes a model for a runtime, loads it there and "
        "compares what it predicts; see keras_freetickets.export.",
    )
    one.add_argument(
        "source",
        help="a .keras file, a packed ensemble (.npz), or a directory of "
        "tickets, which become an ensemble",
    )
    one.add_argument("path", help="the file or directory to write")
    one.add_argument("--format", choices=names())
    one.add_argument("--dtype", choices=list(DTYPES), default="float32")
    one.add_argument(
        "--representative_data",
        help="a .npy file of examples, or an .npz file of an array for each "
        "input, in the order of their names",
    )
    one.add_argument(
        "--dense", action="store_true", help="store zeros like other values"
    )
    one.add_argument("--no_check", action="store_true")
    one.add_argument("--overwrite", action="store_true")
    one.add_argument("--backend", choices=["tensorflow"])
    one.add_argument("--json", help="a file for the report, as JSON")
    return parser


def _loaded(source: str) -> keras.Model:
    if os.path.isdir(source):
        return EnsembleModel.from_tickets(source)
    if source.endswith(".npz"):
        return EnsembleModel.from_packed(source)
    return keras.models.load_model(source)


def _examples(path: str | None) -> typing.Any:
    if path is None:
        return None
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    with found:
        return [found[name] for name in sorted(found.files)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    Args:
        arguments: List of strings. `None` (default) for those of the process.
    """
    given = _parser().parse_args(arguments)
    try:
        report = export(
            _loaded(given.source),
            given.path,
            format=given.format,
            dtype=given.dtype,
            representative_data=_examples(given.representative_data),
            sparse=not given.dense,
            check=not given.no_check,
            overwrite=given.overwrite,
            backend=given.backend,
        )
    except _ERRORS as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if given.json:
        with atomic_path(given.json) as part, open(part, "w") as file:
            file.write(report.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
