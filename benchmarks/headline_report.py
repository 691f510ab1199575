r"""The table and the picture of what `real_headline.py` measured.

```shell
python benchmarks/headline_report.py --report=headline.json \
    --picture=docs/pictures/headline.png
```

Means over seeds ± standard deviation. Seconds of training are by the clock and
of the processor, which other work on the machine lengthens less. A picture is
drawn if it is asked for: accuracy and NLL against the seconds of training.
"""

import json
import math

import numpy as np
from absl import app
from absl import flags
from long_run_report import markdown
from long_run_report import mean_and_deviation

from keras_freetickets import plots

FLAGS = flags.FLAGS
flags.DEFINE_string("report", None, "What real_headline.py wrote.")
flags.DEFINE_string("picture", None, "PNG to write.")
flags.mark_flag_as_required("report")

# Name in the table, how to read it from a row, decimal places.
COLUMNS = (
    ("accuracy", lambda row: row["test"]["accuracy"], 4),
    ("NLL", lambda row: row["test"]["nll"], 4),
    ("ECE", lambda row: row["test"]["ece"], 4),
    ("training, s", lambda row: row["training_seconds"], 1),
    (
        "processor, s",
        lambda row: row["training_processor_seconds"],
        1,
    ),
    ("training, MB", lambda row: row["training_bytes"] / 1e6, 0),
    (
        "from a file, MB",
        lambda row: row.get("training_bytes_from_file", math.nan) / 1e6,
        0,
    ),
    ("file, MB", lambda row: row["file_bytes"] / 1e6, 2),
    ("ms, 1 image", lambda row: row["milliseconds_1"]["median"], 3),
    ("ms, 256 images", lambda row: row["milliseconds_256"]["median"], 2),
)
NAMES = {"dense": "one dense network", "dense x3": "three dense networks"}


def groups_of(rows):
    """Dict from a line's name to its rows, one of each seed."""
    groups = {}
    for row in rows:
        name = NAMES.get(row["kind"]) or f"three tickets, S={row['sparsity']:g}"
        groups.setdefault(name, []).append(row)
    return groups


def table(groups):
    cells = [["", *(name for name, *_ in COLUMNS), "rate"]]
    for name, rows in groups.items():
        cells.append([name])
        for _, read, digits in COLUMNS:
            values = [read(row) for row in rows]
            known = not any(map(math.isnan, values))
            cells[-1].append(
                mean_and_deviation(values, digits) if known else ""
            )
        cells[-1].append(f"{rows[0]['rate']:g}")
    return markdown(cells)


def draw(groups, path):
    def values(rows, name):
        return [row["test"][name] for row in rows]

    scores = {
        name: {
            shown: (
                float(np.mean(values(rows, key))),
                float(np.std(values(rows, key), ddof=len(rows) > 1)),
            )
            for shown, key in (("accuracy", "accuracy"), ("NLL", "nll"))
        }
        for name, rows in groups.items()
    }
    seconds = {
        name: float(np.mean([row["training_seconds"] for row in rows]))
        for name, rows in groups.items()
    }
    plots.scores_against_cost(
        scores,
        seconds,
        {"accuracy": "max", "NLL": "min"},
        path,
        "measured seconds of training, one core",
    )


def main(_):
    with open(FLAGS.report) as file:
        groups = groups_of(json.load(file)["rows"])
    print(table(groups))
    if FLAGS.picture:
        draw(groups, FLAGS.picture)


if __name__ == "__main__":
    app.run(main)
