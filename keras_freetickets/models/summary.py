"""A table of what is sparse in a model, and what is not and why."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.layers.sparse import find_kernels
from keras_freetickets.layers.topology import Topology
from keras_freetickets.metrics import flops
from keras_freetickets.models.sparse_model import SparseModel


@dataclasses.dataclass
class SummaryRow:
    """One masked kernel, or what is not masked of one layer.

    The arguments are the attributes.

    Args:
        layer: Name of the layer, after those of the models and layers that it
            is nested in: `"encoder/hidden"`.
        kernel: Name of the kernel within the layer, "" for what has no mask.
        shape: Shape of the kernel, () for what has no mask.
        active: Integer, number of active weights.
        total: Integer, number of weights.
        sparsity: Float, 1 - active / total.
        flops: Theoretical FLOPs of one example's forward pass, masked weights
            not counted; NaN for a subclassed model, which has no graph.
        dense_flops: The same with every weight counted.
        note: Why there is no mask, or nothing is masked, else "".

    Example:

    ```python
    rows = keras_freetickets.sparsity_summary(model, print_fn=False)
    notes = {row.layer: row.note for row in rows}
    ```
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


_EMBEDDING = keras.layers.Embedding
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_NORMALIZATION = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def _masked_row(name, record, macs):
    mask = ops.convert_to_numpy(record.mask.value)
    active, total = int(np.sum(mask)), mask.size
    dense = 2.0 * macs.get(id(record.kernel), 0)
    density = active / total
    kernel = record.name.partition("/")[2]
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


def _unmasked_row(name, weights, macs, note):
    total = sum(math.prod(weight.shape) for weight in weights)
    dense = sum(2.0 * macs.get(id(weight), 0) for weight in weights)
    return SummaryRow(name, "", (), total, total, 0.0, dense, dense, note)


def _sparse_rows(name, layer, macs):
    """The masked kernels of a `Sparse`, and other kernels that cost FLOPs."""
    records = layer.connections
    masked = {id(record.kernel) for record in records}
    rest = [
        weight
        for weight in layer.layer.weights
        if id(weight) not in masked and macs.get(id(weight), 0) > 0
    ]
    rows = [_masked_row(name, record, macs) for record in records]
    if rest:
        names = ", ".join(sorted({weight.name for weight in rest}))
        note = f"left alone: {names} is masked only if `kernels` names it"
        rows.append(_unmasked_row(name, rest, macs, note))
    return rows


def _rest_row(model, name, layer, macs):
    """What a layer holds outside the `Sparse` layers within it."""
    inner = [p for p in keras_adapter.sublayers(layer) if isinstance(p, Sparse)]
    masked = {id(w) for part in inner for w in part.weights}
    held = layer.trainable_weights if layer.trainable else layer.weights
    weights = [w for w in held if id(w) not in masked]
    note = _reason(model, layer)
    if weights and not layer.trainable:
        note = f"frozen; {note}"
    return _unmasked_row(name, weights, macs, note)


def _reason(model, layer):
    """Why a layer that is no `Sparse` has no mask."""
    if not layer.weights:
        return "has no weights"
    if layer.trainable and not layer.trainable_weights:
        return "has no weights that are trained"
    if isinstance(layer, _NORMALIZATION):
        return "left alone: normalization is not masked"
    if isinstance(layer, _EMBEDDING):
        return "left alone: embeddings are masked only by Sparse(kernels=...)"
    if isinstance(layer, _DEPTHWISE):
        return "left alone: depthwise, masked only by Sparse(kernels=...)"
    if not find_kernels(layer):
        return "left alone: no kernel by role, and no `sparse_kernels`"
    if not isinstance(model, SparseModel):
        return "dense: the model is not sparse"
    if not isinstance(model, keras_adapter.Functional):
        return "left alone: not wrapped in Sparse"
    return "left alone: by `filters` or the `sparsity` of this layer"


def _named_layers(model, above=()):
    """Pairs of a path and a layer: those of the model, nested ones entered.

    Of layers that hold `Sparse` layers, these come before the layer itself.
    """
    for layer in model.layers:
        path = (*above, layer.name)
        if isinstance(layer, keras.Model):
            yield from _named_layers(layer, path)
            continue
        if not isinstance(layer, Sparse):
            yield from _sparse_within(layer, path)
        yield "/".join(path), layer


def _sparse_within(layer, above):
    for part in keras_adapter.inner_layers(layer):
        path = (*above, part.name)
        if isinstance(part, Sparse):
            yield "/".join(path), part
        else:
            yield from _sparse_within(part, path)


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
    rows, seen = [], set()
    for name, layer in _named_layers(model):
        skipped = isinstance(layer, keras.layers.InputLayer | Topology)
        if skipped or id(layer) in seen:
            continue
        seen.add(id(layer))  # shared ones count once
        if isinstance(layer, Sparse):
            rows += _sparse_rows(name, layer, macs)
        else:
            rows.append(_rest_row(model, name, layer, macs))
    return rows


def _table(model, rows):
    head = ("Layer", "Kernel", "Shape", "Active / total", "Sparsity", "FLOPs")
    cells = [
        (
            row.layer,
            row.kernel,
            str(row.shape) if row.shape else "",
            f"{row.active:,} / {row.total:,}" if row.total else "0",
            f"{row.sparsity:.4f}" if row.shape else "",
            "unknown" if math.isnan(row.flops) else f"{row.flops:,.0f}",
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
    counts = "none, no layer is sparse"
    if total:
        sparsity = 1.0 - active / total
        counts = f"{active:,} / {total:,} (sparsity {sparsity:.4f})"
    lines.append(f"Active / maskable weights: {counts}")
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
        ValueError: If the model is no Keras model or not built, or `print_fn`
            cannot be called.

    Example:

    ```python
    rows = keras_freetickets.sparsity_summary(model)
    active = sum(row.active for row in rows if row.shape)
    ```
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: model={model}"
        )
    if print_fn not in (None, False) and not callable(print_fn):
        raise ValueError(
            "`print_fn` must be a callable of a string, None for `print`, or "
            f"False for no output. Received: print_fn={print_fn}"
        )
    if not model.built:
        raise ValueError(
            f"`model` must be built. Received: model={model.name!r}"
        )
    keras_adapter.synchronize(model)
    rows = _rows(model)
    if print_fn is not False:
        (print_fn or print)(_table(model, rows))
    return rows
