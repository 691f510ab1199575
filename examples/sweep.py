"""Runs a script for many settings and seeds, and puts the scores together."""

import os
import subprocess
import sys

import common


def rows_of_run(script, directory, arguments):
    """The rows of the table of one run; see `finished`."""
    return finished(script, directory, arguments, "metrics.json")["rows"]


def finished(script, directory, arguments, file):
    """What a run of a script wrote last; it is made unless that is there.

    Args:
        script: Name of a script beside this file.
        directory: Where the run goes; its output stands in a log beside it.
        arguments: Dict from flags to values; `None` for flags left alone.
        file: Name of the JSON file that is the sign of being done.
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
    return common.read_json(last)


def mean_and_deviation(values):
    """Mean and standard deviation of a sample; 0 for one value."""
    import numpy as np

    return float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))


def within(one, other):
    """Whether two means differ by no more than the larger deviation."""
    return abs(one[0] - other[0]) <= max(one[1], other[1])


def markdown(heads, lines):
    """A table of strings."""
    rows = [heads, *lines]
    body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([body[0], "|---" * len(heads) + "|", *body[1:]])
