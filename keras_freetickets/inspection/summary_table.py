"""How the rows of `sparsity_summary` are shown: as text, and as HTML."""

import html
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

# What a column shows of a row; numbers stand on the right in HTML.
_COLUMNS: dict[str, Callable[[Any], str]] = {
    "Layer": lambda row: row.layer,
    "Kernel": lambda row: row.kernel,
    "Shape": lambda row: str(row.shape) if row.shape else "",
    "Active / total": lambda row: (
        f"{row.active:,} / {row.total:,}" if row.total else "0"
    ),
    "Sparsity": lambda row: f"{row.sparsity:.4f}" if row.shape else "",
    "FLOPs": lambda row: (
        "unknown" if math.isnan(row.flops) else f"{row.flops:,.0f}"
    ),
    "Bytes": lambda row: f"{row.nbytes:,}",
    "ms": lambda row: (
        "" if row.milliseconds is None else f"{row.milliseconds:.3f}"
    ),
    "Note": lambda row: row.note,
}
_NUMBERS = {"Active / total", "Bytes", "Sparsity", "FLOPs", "ms"}


def _grid(rows):
    """The heads of the columns, and the cells of each row."""
    columns = dict(_COLUMNS)
    if all(row.milliseconds is None for row in rows):
        del columns["ms"]  # nothing was measured
    cells = [[shown(row) for shown in columns.values()] for row in rows]
    return list(columns), cells


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


def text_table(title: str, rows: Sequence[Any], unknown: Any) -> str:
    """The rows as text of fixed width."""
    heads, cells_of_rows = _grid(rows)
    grid = [heads, *cells_of_rows]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  ".join(
            c.ljust(w) for c, w in zip(cells, widths, strict=True)
        ).rstrip()
        for cells in grid
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([title, *lines, *_totals(rows, unknown)])


def _html_row(heads, cells, tag):
    sides = ["right" if head in _NUMBERS else "left" for head in heads]
    inside = "".join(
        f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{inside}</tr>"


def html_table(title: str, rows: Sequence[Any], unknown: Any) -> str:
    """The rows as a table in HTML."""
    heads, cells_of_rows = _grid(rows)
    body = "".join(_html_row(heads, cells, "td") for cells in cells_of_rows)
    below = "<br>".join(html.escape(line) for line in _totals(rows, unknown))
    return (
        f"<p>{html.escape(title)}</p>"
        f"<table><thead>{_html_row(heads, heads, 'th')}</thead>"
        f"<tbody>{body}</tbody></table><p>{below}</p>"
    )
