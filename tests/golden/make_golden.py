"""Writes golden.json: metrics as netcal and torchmetrics compute them.

Run once by hand, in an environment of its own that has netcal 1.4 and
torchmetrics 1.9; the tests read the numbers and need neither:

    python tests/golden/make_golden.py
"""

import json
import pathlib
import sys

import numpy as np
import torch
from netcal.metrics import ECE
from netcal.metrics import MCE
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.functional.classification import (
    binary_specificity_at_sensitivity,
)
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.regression import kl_divergence

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import cases  # noqa: E402


def calibration(probabilities, labels):
    tensors = torch.tensor(probabilities), torch.tensor(labels)
    values = {}
    for norm, name in (("l1", "ece"), ("max", "mce")):
        values[f"torchmetrics_{name}"] = float(
            multiclass_calibration_error(
                *tensors, probabilities.shape[1], n_bins=15, norm=norm
            )
        )
    p, y = tensors[0].double(), tensors[1]
    target = functional.one_hot(y, p.shape[1]).double()
    values["torchmetrics_accuracy"] = float(
        multiclass_accuracy(p, y, p.shape[1], average="micro")
    )
    values["torch_brier"] = float(
        p.shape[1] * functional.mse_loss(p, target, reduction="mean")
    )
    if bool((p > 0).all()):
        values["torch_nll"] = float(functional.nll_loss(p.log(), y))
        entropy = torch.distributions.Categorical(probs=p).entropy()
        values["torch_entropy"] = float(entropy.mean())
    if probabilities.shape[1] == 2:
        return values  # Of two classes netcal bins the second, not the top.
    for kind in (ECE, MCE):
        name = kind.__name__.lower()
        values[f"netcal_{name}"] = float(
            kind(bins=15).measure(probabilities, labels)
        )
        if len(np.unique(probabilities.max(axis=1))) < len(labels):
            continue  # netcal cannot cut ties into equal masses.
        equal_mass = kind(bins=10, equal_intervals=False)
        values[f"netcal_{name}_equal_mass"] = float(
            equal_mass.measure(probabilities, labels)
        )
    return values


def detection(known, unknown):
    scores = torch.tensor(np.concatenate([known, unknown]))
    truth = torch.tensor([1] * len(known) + [0] * len(unknown))
    # Given as probabilities already, or torchmetrics takes a sigmoid of them,
    # which makes ties.
    assert scores.min() >= 0 and scores.max() <= 1
    return {
        "auroc": float(binary_auroc(scores, truth)),
        "aupr_in": float(binary_average_precision(scores, truth)),
        "aupr_out": float(binary_average_precision(1 - scores, 1 - truth)),
        "fpr_at_95": 1
        - float(binary_specificity_at_sensitivity(scores, truth, 0.95)[0]),
    }


def diversity(members):
    """Means over examples of what members `(members, examples, ...)` differ in.

    Pairwise are means over ordered pairs.
    """
    p = torch.tensor(members).double()
    pairs = [(i, j) for i in range(len(p)) for j in range(len(p)) if i != j]
    apart = [
        1
        - multiclass_accuracy(p[i], p[j].argmax(1), p.shape[2], average="micro")
        for i, j in pairs
    ]
    entropies = torch.distributions.Categorical(probs=p).entropy()
    whole = torch.distributions.Categorical(probs=p.mean(0)).entropy()
    return {
        "pairwise_kl": float(
            np.mean([float(kl_divergence(p[i], p[j])) for i, j in pairs])
        ),
        "disagreement": float(np.mean(apart)),
        "predictive_entropy": float(whole.mean()),
        "mutual_information": float((whole - entropies.mean(0)).mean()),
    }


def main():
    golden = {}
    for name, case in cases.predictions().items():
        golden[name] = calibration(*case)
    for name, case in cases.scores().items():
        golden[name] = detection(*case)
    for name, case in cases.members().items():
        golden[name] = diversity(case)
    text = json.dumps(golden, indent=2, sort_keys=True) + "\n"
    (HERE / "golden.json").write_text(text)


if __name__ == "__main__":
    main()
