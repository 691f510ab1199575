r"""Tables of several seeds of one system, as Markdown.

    python examples/system_tables.py runs/conntra_0 runs/conntra_1
    python examples/system_tables.py benchmarks/results/newton/optdigits_*.json

Prints the mean and the standard deviation over the given runs of
conntra_ternary.py, newton_mask_sampler.py, rare_category_graph.py,
inva_multimodal.py, distill_with_tickets.py or calibrate_distilled.py:
directories of runs, or copies of their metrics.json. Of
self_training.py give the file rows.json of each seed, of
benchmarks/sampling_targets.py its output.
"""

import json
import os
import sys
from typing import Any

import numpy as np
import tables

_DIGITS = {
    "acceptance": 3,
    "alpha": 2,
    "best_energy": 1,
    "bytes": 0,
    "changes": 2,
    "effective": 0,
    "effective_rate": 0,
    "ess": 0,
    "ess_per_second": 0,
    "its_deviation": 2,
    "kept": 1,
    "largest_logit": 2,
    "networks": 0,
    "processor_seconds": 1,
    "ratio": 2,
    "seconds": 1,
    "step_rate": 0,
    "zeros": 3,
}


def read(path: str) -> dict[str, Any]:
    if os.path.isdir(path):
        path = os.path.join(path, "metrics.json")
    with open(path) as file:
        found = json.load(file)
    if all(isinstance(one, dict) for one in found.values()):
        return {"rows": [{"model": k, **row} for k, row in found.items()]}
    return found


def cell(key: str, values: list[Any]) -> str:
    if isinstance(values[0], str):
        return values[0]
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    digits = _DIGITS.get(key, 4)
    if key == "kept" and max(numbers) <= 1:
        digits = 3  # a share of the examples, not a number of members
    mean, deviation = np.mean(numbers), np.std(numbers, ddof=len(numbers) > 1)
    if digits == 0 and deviation < 0.5:
        return f"{mean:,.0f}"
    return f"{mean:,.{digits}f} ± {deviation:,.{digits}f}"


def main(paths: list[str]) -> None:
    if not paths:
        raise SystemExit(__doc__)
    runs = [read(path) for path in paths]
    for name in runs[0]:
        rows = [run[name] for run in runs]
        if not isinstance(rows[0], list):
            continue
        keys = list(dict.fromkeys(key for row in rows[0] for key in row))
        lines = [
            [cell(key, [one.get(key) for one in same]) for key in keys]
            for same in zip(*rows, strict=True)
        ]
        print(f"\n{name}, {len(runs)} runs\n")
        print(tables.markdown([k.replace("_", " ") for k in keys], lines))


if __name__ == "__main__":
    main(sys.argv[1:])
