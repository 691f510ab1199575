"""Tables and pictures of the long runs, from their JSON files.

Where the predictions of the rows are there, models are compared by
`keras_freetickets.metrics.paired_bootstrap`, over test images and training
runs, and the intervals kept in `comparisons.json`. Of that file and those of
the rows alone `table.md` is made, and the pictures of accuracy and NLL against
FLOPs and seconds of training.
"""

import dataclasses
import glob
import json
import os

import long_run_rows
import numpy as np

from keras_freetickets import files
from keras_freetickets import metrics

_NAMES = {"dense": "dense", "static": "static masks", "dst": "DST"}
_NAMES |= {"set": "SET", "edst": "EDST", "gmp": "GMP", "granet": "GraNet"}
_NAMES |= {"itop_rigl": "ITOP, gradient", "itop_set": "ITOP, random"}
_NAMES |= {"ndsnn": "NDSNN", "rigl": "RigL", "snfs": "SNFS", "srigl": "SRigL"}
_NAMES |= {"dst_random": "DST, random"}
_SCORES = {"accuracy": "accuracy", "nll": "NLL", "ece": "ECE"}
_BETTER = {"accuracy": True, "nll": False}
# Besides dense networks and static masks, what is compared with what.
_RIVALS = (("edst", "dst"), ("rigl", "set"))
_RIVALS += (("ndsnn", "rigl"), ("ndsnn", "set"))


@dataclasses.dataclass(frozen=True)
class Model:
    """A line of the table: the rows of a method, or their single members."""

    method: str
    sparsity: float
    epochs: int | None
    single: bool
    rows: tuple

    @property
    def name(self):
        sparse = f" S={self.sparsity:g}" if self.sparsity else ""
        length = f", {self.epochs} epochs" if self.epochs else ""
        count = "one" if self.single else f"{self.members}"
        return f"{_NAMES[self.method]}{sparse}{length}, {count}"

    @property
    def members(self):
        """How many networks a row trains."""
        return len(self.rows[0]["members"])

    def scores(self, name):
        """A score of each run."""
        if self.single:
            return [m[name] for row in self.rows for m in row["members"]]
        return [row["ensemble"][name] for row in self.rows]

    def cost(self, name):
        """The mean cost of a model of this line."""
        values = [row[name] for row in self.rows]
        if name == "process_seconds":
            values = [value["typical"] for value in values]
        share = self.members if self.single else 1
        return float(np.mean(values)) / share


def read(path):
    with open(path) as file:
        return json.load(file)


def models(results):
    """The lines of the table, of the rows that are done."""
    found = glob.glob(os.path.join(results, "rows", "*.json"))
    groups = {}
    for row in map(read, sorted(found)):
        group = row["method"], row["sparsity"], row["epochs"]
        groups.setdefault(group, []).append(row)
    lines = []
    order = list(_NAMES)
    for group in sorted(
        groups,
        key=lambda group: (group[1], group[2] or 0, order.index(group[0])),
    ):
        rows = tuple(groups[group])
        # The tickets of one EDST run are not trained one without the other.
        if group[0] != "edst":
            lines.append(Model(*group, True, rows))
        if len(rows[0]["members"]) > 1:
            lines.append(Model(*group, False, rows))
    return lines


# Comparisons.


def of_images(model, work_dir):
    """Scores of each image: dict of arrays `(runs, images)`, or `None`."""
    runs = {"accuracy": [], "nll": []}
    for row in model.rows:
        name = long_run_rows.Row(
            row["task"],
            row["method"],
            row["sparsity"],
            row["seed"],
            epochs=row["epochs"],
        ).name
        path = os.path.join(work_dir, name, "predictions.npz")
        if not os.path.exists(path):
            return None
        with np.load(path) as stored:
            members = np.exp(stored["members"].astype("float64"))
            labels = stored["labels"]
        members /= members.sum(axis=-1, keepdims=True)
        every = members if model.single else members.mean(axis=0)[None]
        for probabilities in every:
            chosen = probabilities[np.arange(len(labels)), labels]
            runs["accuracy"].append(probabilities.argmax(-1) == labels)
            runs["nll"].append(-np.log(chosen))
    return {name: np.array(values, float) for name, values in runs.items()}


def pairs(lines):
    """Which lines are compared: all with dense, and sparse ones alike."""
    dense = [line for line in lines if line.method == "dense"]
    sparse = [line for line in lines if line.method != "dense"]
    found = [
        (line, reference)
        for line in sparse
        for reference in dense
        if line.epochs is None and line.single <= reference.single
    ]
    found += [
        (one, other)
        for one in sparse
        for other in sparse
        if (one.sparsity, one.epochs, one.single)
        == (other.sparsity, other.epochs, other.single)
        and (other.method == "static" or (one.method, other.method) in _RIVALS)
        and one.method != other.method
    ]
    return found


def compare(lines, results, work_dir):
    """Writes `comparisons.json`, if the predictions of all rows are there."""
    scores = {line.name: of_images(line, work_dir) for line in lines}
    if None in scores.values():
        print("Predictions are missing; intervals are as they were")
        return
    found = []
    for first, second in pairs(lines):
        for name, higher in _BETTER.items():
            one = scores[first.name][name]
            other = scores[second.name][name]
            difference = metrics.paired_bootstrap(one, other)
            found.append(
                {
                    "first": first.name,
                    "second": second.name,
                    "score": name,
                    "runs": [len(one), len(other)],
                    **dataclasses.asdict(difference),
                    "verdict": difference.verdict(higher),
                }
            )
    write_text(
        os.path.join(results, "comparisons.json"),
        json.dumps(found, indent=1) + "\n",
    )


# Tables and pictures.


def write_text(path, text):
    with files.atomic_path(path) as temporary, open(temporary, "w") as file:
        file.write(text)


def mean_and_deviation(values, digits=4):
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def score_table(lines):
    heads = ["model", "runs", *_SCORES.values(), "training FLOPs x dense"]
    heads += ["training seconds", "inference FLOPs x dense", "file, kB"]
    cells = [heads]
    for line in lines:
        cells.append(
            [
                line.name,
                str(len(line.scores("accuracy"))),
                *(mean_and_deviation(line.scores(name)) for name in _SCORES),
                f"{line.cost('training_flops'):.2f}",
                f"{line.cost('process_seconds'):.0f}",
                f"{line.cost('inference_flops'):.2f}",
                f"{line.cost('file_bytes') / 1000:,.0f}",
            ]
        )
    return markdown(cells)


def difference_table(comparisons):
    cells = [["", "minus", "accuracy", "", "NLL", ""]]
    by_pair = {}
    for one in comparisons:
        by_pair.setdefault((one["first"], one["second"]), []).append(one)
    for (first, second), scores in by_pair.items():
        cells.append([first, second])
        for one in scores:
            cells[-1] += [
                f"{one['mean']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]",
                one["verdict"],
            ]
    return markdown(cells)


def settings_table(results):
    """What was chosen for each row, of how many that were tried."""
    cells = [["settings of", "rate", "weight decay", "interval", "tried"]]
    pattern = os.path.join(results, "settings", "*.json")
    for path in sorted(glob.glob(pattern)):
        found = read(path)
        if "chosen" not in found:
            continue
        best = found["chosen"]
        cells.append(
            [
                os.path.basename(path).removesuffix(".json"),
                f"{best['learning_rate']:g}",
                f"{best['weight_decay']:g}",
                str(best["update_interval"] or ""),
                str(len(found["tried"])),
            ]
        )
    return markdown(cells)


def markdown(cells):
    heads, *rows = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([heads, "|---" * len(cells[0]) + "|", *rows]) + "\n"


def draw(lines, results):
    """Accuracy and NLL against FLOPs and against seconds."""
    from keras_freetickets import plots

    def score(line, name):
        values = line.scores(name)
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        return float(np.mean(values)), float(spread)

    scores = {
        line.name: {
            _SCORES[name]: score(line, name) for name in ("accuracy", "nll")
        }
        for line in lines
    }
    for name, label in {
        "training_flops": "theoretical FLOPs of training, one dense network 1",
        "process_seconds": "seconds of training, of one core",
    }.items():
        plots.scores_against_cost(
            scores,
            {line.name: line.cost(name) for line in lines},
            {"accuracy": "max", "NLL": "min"},
            os.path.join(results, f"{name}.png"),
            label,
        )


def report(task, results, work_dir):
    """Compares the rows of a task; writes its table and pictures.

    Args:
        task: Name of the task.
        results: Folder of its JSON files.
        work_dir: Folder of its predictions.
    """
    lines = models(results)
    if not lines:
        print(f"{task}: no row is done")
        return
    compare(lines, results, work_dir)
    text = [score_table(lines)]
    path = os.path.join(results, "comparisons.json")
    if os.path.exists(path):
        text.append(difference_table(read(path)))
    text.append(settings_table(results))
    write_text(os.path.join(results, "table.md"), "\n".join(text))
    draw(lines, results)
    print("\n".join([task, "", *text]))
