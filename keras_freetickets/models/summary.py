"""A table of what is sparse in a model, and what is not and why."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.layers.topology import Topology
from keras_freetickets.metrics import flops


@dataclasses.dataclass
class SummaryRow:
    """One kernel, or one layer without a mask.

    Attributes:
        layer: Name of the layer.
        kernel: Name of the kernel within the layer, "" if there is none.
        shape: Shape of the kernel.
        active: Integer, number of active weights.
        total: Integer, number of weights.
        sparsity: Float, 1 - active / total.
        flops: Theoretical FLOPs of one example's forward pass, masked weights
            not counted; NaN for a subclassed model, which has no graph.
        dense_flops: The same with every weight counted.
        note: Why the layer has no mask, else "".
    """

    layer: str
    kernel: str
    shape: tuple
    active: int
    total: int
    sparsity: float
    flops: float
    dense_flops: float
    note: str


def _masked_row(name, record, macs):
    mask = ops.convert_to_numpy(record.mask.value)
    active, total = int(np.sum(mask)), mask.size
    dense = 2.0 * macs.get(id(record.kernel), 0)
    density = active / total
    layer, _, kernel = record.name.partition("/")
    note = "dense: density 1 by the distribution" if active == total else ""
    kernel_value = ops.convert_to_numpy(record.kernel.value)
    stray = np.count_nonzero(kernel_value[~mask])
    if stray:
        note = f"{stray:,} weights outside the mask are not zero"
    return SummaryRow(
        name,
        kernel,
        tuple(mask.shape),
        active,
        total,
        1.0 - density,
        dense * density,
        dense,
        note,
    )


def _dense_row(layer, macs):
    inner = [p for p in keras_adapter.sublayers(layer) if isinstance(p, Sparse)]
    masked = {id(w) for part in inner for w in part.trainable_weights}
    weights = [w for w in layer.trainable_weights if id(w) not in masked]
    total = sum(math.prod(w.shape) for w in weights)
    dense = sum(2.0 * macs.get(id(w), 0) for w in weights)
    if isinstance(layer, keras.layers.BatchNormalization):
        note = "normalization is not masked"
    elif not layer.weights:
        note = "has no weights"
    elif not layer.trainable:
        note = "not trainable and not masked"
    else:
        note = "left alone: no kernel by role, or filtered out"
    return SummaryRow(layer.name, "", (), total, total, 0.0, dense, dense, note)


def _layers_of(model):
    """The layers, and the `Sparse` ones within them."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers_of(layer)
            continue
        parts = keras_adapter.sublayers(layer)[1:]
        yield from (part for part in parts if isinstance(part, Sparse))
        yield layer


class _Unknown(dict):
    """MACs of a model without a graph."""

    def get(self, key, default=None):
        return math.nan


def _macs(model):
    if not getattr(model, "inputs", None):
        return _Unknown()
    costs = flops.kernel_macs(model)
    return {key: cost.macs for key, cost in costs.items()}


def _rows(model):
    macs = _macs(model)
    rows = []
    for layer in _layers_of(model):
        if isinstance(layer, Sparse):
            rows += [
                _masked_row(layer.name, record, macs)
                for record in layer.connections
            ]
        elif not isinstance(layer, keras.layers.InputLayer | Topology):
            row = _dense_row(layer, macs)
            if row.total or not layer.weights:
                rows.append(row)
    return rows


def _table(model, rows):
    head = ("Layer", "Kernel", "Shape", "Active / total", "Sparsity", "MFLOPs")
    cells = [
        (
            row.layer,
            row.kernel,
            str(row.shape) if row.shape else "",
            f"{row.active:,} / {row.total:,}" if row.total else "0",
            f"{row.sparsity:.4f}" if row.shape else "",
            f"{row.flops / 1e6:,.3f}",
            row.note,
        )
        for row in rows
    ]
    head = (*head, "Note")
    widths = [max(len(r[i]) for r in [head, *cells]) for i in range(len(head))]
    lines = [f'Sparsity of model "{model.name}"']
    for row in [head, *cells]:
        padded = (cell.ljust(w) for cell, w in zip(row, widths))
        lines.append("  ".join(padded).rstrip())
    lines.insert(2, "-" * min(100, sum(widths) + 2 * len(widths)))
    masked = [row for row in rows if row.shape]
    active = sum(row.active for row in masked)
    total = sum(row.total for row in masked)
    used = sum(row.flops for row in rows)
    dense = sum(row.dense_flops for row in rows)
    share = active / total if total else 1.0
    lines.append(
        f"Active / maskable weights: {active:,} / {total:,} "
        f"(sparsity {1.0 - share:.4f})"
    )
    if math.isnan(used):
        lines.append("Theoretical FLOPs: unknown, as the model has no graph")
        return "\n".join(lines)
    ratio = used / dense if dense else 1.0
    lines.append(
        f"Theoretical forward FLOPs: {used:,.0f} of {dense:,.0f} dense "
        f"(ratio {ratio:.4f}); masks simulate sparsity, they save no time"
    )
    return "\n".join(lines)


def sparsity_summary(model, print_fn=None):
    """Prints what is sparse in a model, and why the rest is not.

    Args:
        model: A built Keras model, sparse or not.
        print_fn: Callable that takes the table as one string. `None` for
            `print`; `False` for no output.

    Returns:
        List of rows with the attributes `layer`, `kernel`, `shape`, `active`,
        `total`, `sparsity`, `flops`, `dense_flops` and `note`.

    Raises:
        ValueError: If the model is not built.

    Example:

    ```python
    rows = keras_freetickets.sparsity_summary(model)
    active = sum(row.active for row in rows if row.shape)
    ```
    """
    if not model.built:
        raise ValueError(
            f"`model` must be built. Received: model={model.name!r}"
        )
    rows = _rows(model)
    if print_fn is not False:
        (print_fn or print)(_table(model, rows))
    return rows
