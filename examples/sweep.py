"""Runs a script for many settings and seeds, and summarizes the scores."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import run_directory

MeanAndDeviation = tuple[float, float]


def rows_of_run(
    script: str, directory: str, arguments: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of the table of one run, as for `finished`."""
    return finished(script, directory, arguments, "metrics.json")["rows"]


def finished(
    script: str, directory: str, arguments: dict[str, Any], file: str
) -> Any:
    """Returns what a run wrote last; runs the script if that is missing.

    Args:
        script: Name of a script beside this file.
        directory: Output directory of the run; its log is beside it.
        arguments: Dict from flags to values; `None` leaves a flag out.
        file: Name of the JSON file that marks the run as finished.
    """
    last = os.path.join(directory, file)
    if not os.path.exists(last):
        print(f"{os.path.basename(directory)} ...", flush=True)
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), script)
        command = [sys.executable, path, f"--output_dir={directory}"]
        command += [
            f"--{name}={value}"
            for name, value in arguments.items()
            if value is not None
        ]
        with open(f"{directory}.log", "w") as log:
            done = subprocess.run(command, stdout=log, stderr=log)
        if done.returncode:
            raise SystemExit(f"{directory} failed: see {log.name}")
    return run_directory.read_json(last)


def mean_and_deviation(values: Sequence[float]) -> MeanAndDeviation:
    """Mean and standard deviation of a sample; of one value 0."""
    return float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))


def within(one: MeanAndDeviation, other: MeanAndDeviation) -> bool:
    """Whether two means differ by no more than the larger deviation."""
    return abs(one[0] - other[0]) <= max(one[1], other[1])
