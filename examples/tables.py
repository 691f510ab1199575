"""Tables as text and as Markdown."""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

_COLUMNS = {
    "model": ("model", "{}"),
    "accuracy": ("accuracy", "{:.4f}"),
    "nll": ("NLL", "{:.4f}"),
    "ece": ("ECE", "{:.4f}"),
    "sparsity": ("sparsity", "{:.4f}"),
    "updates": ("topology updates", "{:,}"),
    "parameters": ("active parameters", "{:,}"),
    "train_flops": ("train FLOPs x dense", "{:.3f}"),
    "inference_flops": ("inference FLOPs x dense", "{:.3f}"),
    "seconds": ("seconds", "{:.1f}"),
}


def scores_and_costs(rows: list[dict[str, Any]]) -> str:
    """The rows as text, with the columns that at least one row has."""
    keys = [key for key in _COLUMNS if any(key in row for row in rows)]
    heads = [_COLUMNS[key][0] for key in keys]
    lines = [
        [
            _COLUMNS[key][1].format(row[key]) if key in row else ""
            for key in keys
        ]
        for row in rows
    ]
    return (
        f"{aligned([heads, *lines])}\n"
        "FLOPs are theoretical (two a multiply-accumulate) and relative to "
        "the dense model; masks simulate sparsity."
    )


def aligned(cells: Iterable[Sequence[str]]) -> str:
    """Columns of fixed width, with a line below the first row."""
    rows = list(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of strings."""
    rows = [heads, *lines]
    body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([body[0], "|---" * len(heads) + "|", *body[1:]])
