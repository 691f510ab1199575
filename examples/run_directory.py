"""The directory of a run: its settings, and files that are never half written.

A script that is started again with the same flags resumes in its directory;
one with other flags is refused there.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from absl import app
from absl import flags

FLAGS = flags.FLAGS
# Flags that do not change the results.
_FREE = {
    *("verbose", "output_dir", "data_dir", "download", "dry_run"),
    *("processes", "process_number"),
}


@contextlib.contextmanager
def naming(flag: str) -> Iterator[None]:
    """Ends the script with a message that names the flag, not a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise SystemExit(f"{flag}: {error}") from error


def no_arguments(argv: list[str]) -> None:
    """Refuses arguments that are not flags, such as flags without dashes."""
    if len(argv) > 1:
        raise app.UsageError(
            f"Unknown argument {argv[1]!r}; flags begin with --."
        )


def config() -> dict[str, Any]:
    """The script's flags that decide the results, and their values.

    Libraries define flags too; those are not the script's own.
    """
    names = {flag.name for flag in FLAGS.get_key_flags_for_module(sys.argv[0])}
    return {name: FLAGS[name].value for name in sorted(names - _FREE)}


def read_json(path: str) -> Any:
    """The content of a JSON file, or `None` if there is no such file."""
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def write_text(path: str, text: str) -> None:
    """Writes a file that is complete or missing, even if the run is killed."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(f"{path}.partial", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.partial", path)


def write_json(path: str, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2))


def check_directory(directory: str, config: dict[str, Any]) -> None:
    """Refuses a directory that belongs to a run with other settings."""
    check_writable(directory)
    known = read_json(os.path.join(directory, "config.json")) or config
    for name in sorted({**known, **config}):
        if known.get(name) != config.get(name):
            raise SystemExit(
                f"--output_dir={directory} holds a run with "
                f"--{name}={known.get(name)}, and this one has "
                f"--{name}={config.get(name)}. Give another directory."
            )


def check_writable(directory: str) -> None:
    """Refuses a directory that cannot be written to; creates none."""
    missing, path = [], os.path.abspath(directory)
    while not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise SystemExit(
            f"--output_dir={directory} cannot be written to: {error}"
        ) from error
    finally:
        for path in missing:
            if os.path.isdir(path):
                os.rmdir(path)


def claim_directory(directory: str, config: dict[str, Any]) -> None:
    """Writes down the settings of the run that begins in a directory."""
    check_directory(directory, config)
    write_json(os.path.join(directory, "config.json"), config)


def rows_of_seeds(seeds: list[str], rows_of: Callable[[int], Any]) -> list[Any]:
    """What each seed comes to; a seed that is finished is not run again.

    The directory is claimed. A run that is refused before it has written
    anything, since its flags do not suit the data, leaves it free.

    Args:
        seeds: The values of `--seeds`.
        rows_of: Function of a seed that returns what JSON can hold.
    """
    directory = FLAGS.output_dir
    was_there = os.path.isdir(directory)
    claim_directory(directory, config())
    found = []
    try:
        for seed in map(int, seeds):
            path = os.path.join(directory, f"seed_{seed}", "rows.json")
            rows = read_json(path)
            if rows is None:
                rows = rows_of(seed)
                write_json(path, rows)
            found.append(rows)
    except SystemExit:
        if os.listdir(directory) == ["config.json"]:
            os.remove(os.path.join(directory, "config.json"))
            if not was_there:
                os.rmdir(directory)
        raise
    return found


def write_metrics(content: Any) -> None:
    """Writes the results of a run into its directory."""
    write_json(os.path.join(FLAGS.output_dir, "metrics.json"), content)
