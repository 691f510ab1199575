"""How the rows of `sparsity_summary` are shown: as text, and as HTML."""

import html
import math
from collections.abc import Iterable
from typing import Any

_HEADS = (
    "Layer",
    "Kernel",
    "Shape",
    "Active / total",
    "Sparsity",
    "FLOPs",
    "Bytes",
    "Note",
)
# Numbers, which stand on the right in HTML.
_NUMBERS = {"Active / total", "Bytes", "Sparsity", "FLOPs"}


def _cells(row):
    return (
        row.layer,
        row.kernel,
        str(row.shape) if row.shape else "",
        f"{row.active:,} / {row.total:,}" if row.total else "0",
        f"{row.sparsity:.4f}" if row.shape else "",
        "unknown" if math.isnan(row.flops) else f"{row.flops:,.0f}",
        f"{row.nbytes:,}",
        row.note,
    )


def _totals(rows, unknown):
    """The lines below the table."""
    masked = [row for row in rows if row.shape]
    active = sum(row.active for row in masked)
    total = sum(row.total for row in masked)
    counts = "none, no layer is sparse"
    if total:
        sparsity = 1.0 - active / total
        counts = f"{active:,} / {total:,} (sparsity {sparsity:.4f})"
    return [f"Active / maskable weights: {counts}", _flops(rows, unknown)]


def _flops(rows, unknown):
    """The FLOPs of what can be counted, and what cannot."""
    if unknown:
        return f"Theoretical forward FLOPs: unknown, as {unknown}"
    counted = [row for row in rows if not math.isnan(row.dense_flops)]
    used = sum(row.flops for row in counted)
    dense = sum(row.dense_flops for row in counted)
    names = [row.layer for row in rows if math.isnan(row.dense_flops)]
    ratio = f" (ratio {used / dense:.4f})" if dense else ""
    without = ""
    if names:
        named = ", ".join(dict.fromkeys(names))
        without = f", without those of {named}, which are unknown"
    return (
        f"Theoretical forward FLOPs: {used:,.0f} of {dense:,.0f} dense"
        f"{ratio}{without}{_saving(rows)}"
    )


def _saving(rows):
    kinds = {row.storage for row in rows} - {""}
    if kinds == {"compressed"}:
        return ""
    if "compressed" in kinds:
        return "; kernels with masks save no time"
    return "; masks simulate sparsity, they save no time"


def text_table(title: str, rows: Iterable[Any], unknown: Any) -> str:
    """The rows as text of fixed width."""
    grid = [_HEADS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  ".join(
            c.ljust(w) for c, w in zip(cells, widths, strict=True)
        ).rstrip()
        for cells in grid
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([title, *lines, *_totals(rows, unknown)])


def _html_row(cells, tag):
    sides = ["right" if head in _NUMBERS else "left" for head in _HEADS]
    inside = "".join(
        f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{inside}</tr>"


def html_table(title: str, rows: Iterable[Any], unknown: Any) -> str:
    """The rows as a table in HTML."""
    body = "".join(_html_row(_cells(row), "td") for row in rows)
    below = "<br>".join(html.escape(line) for line in _totals(rows, unknown))
    return (
        f"<p>{html.escape(title)}</p>"
        f"<table><thead>{_html_row(_HEADS, 'th')}</thead>"
        f"<tbody>{body}</tbody></table><p>{below}</p>"
    )
