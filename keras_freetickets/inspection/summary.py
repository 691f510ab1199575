"""A table of what is sparse in a model, what is not, and why."""

import dataclasses
import math
import sys
import typing
from collections.abc import Iterable

import keras
import numpy as np

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_model
from keras_freetickets.inspection import layer_times
from keras_freetickets.inspection.summary_table import html_table
from keras_freetickets.inspection.summary_table import text_table
from keras_freetickets.layers.compressed_kernels import CompressesKernels
from keras_freetickets.layers.kernels import MasksKernels
from keras_freetickets.layers.kernels import find_kernels
from keras_freetickets.layers.kernels import is_depthwise
from keras_freetickets.layers.kernels import is_quantized
from keras_freetickets.layers.update_state import UpdateState
from keras_freetickets.metrics import flops
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Model


@dataclasses.dataclass
class SummaryRow:
    """One masked kernel, or the rest of a layer, which is not masked.

    The arguments are the attributes.

    Args:
        layer: Path of the layer, with the names of the models and layers that
            it is nested in: `"encoder/hidden"`.
        kernel: Name of the kernel within the layer, "" for what has no mask.
        shape: Shape of the kernel, () for what has no mask.
        active: Integer, number of active weights.
        total: Integer, number of weights.
        sparsity: Float, 1 - active / total.
        flops: Theoretical FLOPs of one example's forward pass, masked weights
            not counted; NaN where they are unknown, and the note says why.
        dense_flops: The same with every weight counted.
        note: Why there is no mask, why nothing is masked, why a kernel is
            not compressed or why FLOPs are unknown, else "".
        nbytes: Integer, bytes of the weights with their masks or positions.
        storage: `"mask"`, `"compressed"`, or "" for what is not sparse.
        milliseconds: Float, the measured time of the whole layer for a batch;
            `None` if it was not measured, or stands in the layer's first row.

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
    nbytes: int = 0
    storage: str = ""
    milliseconds: float | None = None


_EMBEDDING = keras.layers.Embedding
_NORMALIZATION = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def _with_cost(note, weights, costs):
    """A note with what is said of the costs of a row's weights."""
    said = {costs.note_of(weight) for weight in weights} - {""}
    return "; ".join(filter(None, [note, *sorted(said)]))


def _bytes_of(variables):
    sizes = [(math.prod(v.shape), np.dtype(v.dtype)) for v in variables]
    return sum(count * dtype.itemsize for count, dtype in sizes)


def _masked_row(name, layer, masked, costs):
    active, total = masked.count(), masked.size
    dense = 2.0 * costs.macs_of(masked.kernel)
    density = active / total
    kernel = masked.name.partition("/")[2]
    note = "dense: density 1 by the distribution" if active == total else ""
    note = getattr(layer, "note", None) or note
    held = [masked.kernel]
    if masked.compressed:
        held += masked.layer.position_variables
    else:
        held += [masked.mask]
        stray = np.count_nonzero(masked.kernel_array()[~masked.mask_array()])
        if stray:
            note = f"{stray:,} weights outside the mask are not zero"
    return SummaryRow(
        name,
        kernel,
        masked.shape,
        active,
        total,
        1.0 - density,
        dense * density,
        dense,
        _with_cost(note, [masked.kernel], costs),
        _bytes_of(held),
        "compressed" if masked.compressed else "mask",
    )


def _unmasked_row(name, weights, costs, note):
    total = sum(costs.size_of(weight) for weight in weights)
    dense = sum(2.0 * costs.macs_of(weight) for weight in weights)
    note = _with_cost(note, weights, costs)
    size = _bytes_of(weights)
    return SummaryRow(name, "", (), total, total, 0.0, dense, dense, note, size)


def _sparse_rows(name, layer, costs):
    """The kernels of a sparse layer, and other kernels that cost FLOPs."""
    masked_kernels = layer.masked_kernels
    masked = {id(masked.kernel) for masked in masked_kernels}
    inner = layer if isinstance(layer, CompressesKernels) else layer.layer
    rest = [
        weight
        for weight in inner.weights
        if id(weight) not in masked and costs.macs_of(weight) != 0
    ]
    rows = [_masked_row(name, layer, m, costs) for m in masked_kernels]
    if rest and costs.known:
        names = ", ".join(sorted({weight.name for weight in rest}))
        note = f"left alone: {names} is masked only if `kernels` names it"
        rows.append(_unmasked_row(name, rest, costs, note))
    return rows


def _rest_row(model, name, layer, costs):
    """What a layer holds outside the sparse layers within it."""
    parts = keras_adapter.sublayers(layer)
    inner = [part for part in parts if isinstance(part, MasksKernels)]
    masked = {id(w) for part in inner for w in part.weights}
    quantized = any(map(is_quantized, keras_adapter.sublayers(layer)))
    whole = quantized or not layer.trainable
    held = layer.weights if whole else layer.trainable_weights
    weights = [w for w in held if id(w) not in masked]
    note = _reason(model, layer)
    if weights and not layer.trainable:
        note = f"frozen; {note}"
    return _unmasked_row(name, weights, costs, note)


def _reason(model, layer):
    """Why a layer that is not sparse has no mask."""
    if not layer.weights:
        return "has no weights"
    if any(map(is_quantized, keras_adapter.sublayers(layer))):
        return "left alone: quantized, so that there is no float kernel"
    if layer.trainable and not layer.trainable_weights:
        return "has no weights that are trained"
    if isinstance(layer, _NORMALIZATION):
        return "left alone: normalization is not masked"
    if isinstance(layer, _EMBEDDING):
        return "left alone: embeddings are masked only if `kernels` names them"
    if is_depthwise(layer):
        return "left alone: depthwise, masked only if `kernels` names it"
    if not find_kernels(layer):
        return "left alone: no kernel by role, and no `sparse_kernels`"
    if not isinstance(model, SparseModel):
        return "dense: the model is not sparse"
    if not isinstance(model, keras_adapter.Functional):
        return "left alone: not wrapped in Sparse"
    return "left alone: by `filters` or the `sparsity` of this layer"


def _named_layers(model, above=()):
    """Pairs of a path and a layer: those of the model, nested ones entered.

    Of layers that hold sparse layers, these come before the layer itself.
    """
    for layer in model.layers:
        path = (*above, layer.name)
        if isinstance(layer, keras.Model):
            yield from _named_layers(layer, path)
            continue
        if not isinstance(layer, MasksKernels):
            yield from _sparse_within(layer, path)
        yield "/".join(path), layer


def _sparse_within(layer, above):
    for part in keras_adapter.inner_layers(layer):
        path = (*above, part.name)
        if isinstance(part, MasksKernels):
            yield "/".join(path), part
        else:
            yield from _sparse_within(part, path)


class _Costs:
    """What the kernels of a model cost, as far as that can be said.

    Attributes:
        reason: Why nothing can be said, "" if something can.
        known: Boolean, whether something can.
    """

    def __init__(self, model, input_shape):
        self.reason = ""
        self._costs: dict = {}
        if not getattr(model, "inputs", None):
            self.reason = "the model has no graph"
        elif input_shape is None and flops.open_inputs(model):
            names = ", ".join(flops.open_inputs(model))
            self.reason = f"{names} leaves sizes open: pass `input_shape`"
        else:
            self._costs = flops.kernel_macs(model, input_shape)
        self.known = not self.reason

    def macs_of(self, weight):
        if not self.known:
            return math.nan
        cost = self._costs.get(id(weight))
        return 0 if cost is None else cost.macs

    def size_of(self, weight):
        cost = self._costs.get(id(weight))
        return math.prod(weight.shape) if cost is None else cost.size

    def note_of(self, weight):
        """What `kernel_macs` has to say about a weight."""
        unknown = self.known and math.isnan(self.macs_of(weight))
        return "FLOPs unknown: no rule for this layer" if unknown else ""


def _rows(model, costs, times):
    rows, seen = [], set()
    for name, layer in _named_layers(model):
        skipped = isinstance(layer, keras.layers.InputLayer | UpdateState)
        if skipped or id(layer) in seen:
            continue
        seen.add(id(layer))  # shared ones count once
        if isinstance(layer, MasksKernels):
            found = _sparse_rows(name, layer, costs)
        else:
            found = [_rest_row(model, name, layer, costs)]
        for row in found[:1]:
            row.milliseconds = times.get(id(layer))
        rows += found
    return rows


def _times(model, batch_size, input_shape):
    """Milliseconds of each layer by its id; none without a batch size."""
    if batch_size is None:
        return {}
    check_count("batch_size", batch_size)
    example = flops.symbolic_example(model, input_shape)
    batch = layer_times.random_batch(example, batch_size)
    layers = {id(layer): layer for _, layer in _named_layers(model)}
    return layer_times.milliseconds(model, list(layers.values()), batch)


def _notebook_cell():
    """The number of the cell that IPython runs, `None` outside of it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return None if shell is None else shell.execution_count


class SparsitySummary(list):
    """The rows that `sparsity_summary` returns: a list that shows as a table.

    `str(rows)` is the table that is printed; notebooks show it as HTML, but
    not in the cell that has printed it.

    Args:
        rows: List of `SummaryRow`.
        title: String, the line above the table.
        unknown: String, why no FLOPs can be counted. "" if some can.

    Example:

    ```python
    rows = keras_freetickets.sparsity_summary(model, print_fn=False)
    print(rows)
    ```
    """

    def __init__(
        self,
        rows: Iterable = (),
        title: str = "Sparsity",
        unknown: typing.Any = "",
    ) -> None:
        super().__init__(rows)
        self.title = title
        self.unknown = unknown
        self._printed_in = None

    def _print(self):
        print(self)
        self._printed_in = _notebook_cell()

    def __str__(self):
        return text_table(self.title, self, self.unknown)

    def __repr__(self):
        return f"<{self.title}: {len(self)} rows>"

    def _repr_html_(self):
        return html_table(self.title, self, self.unknown)

    def _ipython_display_(self):
        cell = _notebook_cell()
        if cell is None or cell != self._printed_in:
            raise NotImplementedError  # IPython then asks for `_repr_html_`


def sparsity_summary(
    model: Model,
    print_fn: typing.Any = None,
    input_shape: typing.Any = None,
    batch_size: int | None = None,
) -> "SparsitySummary":
    """Prints what is sparse in a model, and why the rest is not.

    The line below the table compares the FLOPs with masks to those of the
    dense model. It covers the layers that can be counted and names the others.

    Args:
        model: A built Keras model, sparse or not.
        print_fn: Callable that takes the table as one string. `None` for
            `print`; `False` for no output.
        input_shape: Shape of one example, without the batch, such as
            `(224, 224, 3)`, or a structure of shapes as the model has inputs.
            The FLOPs of a model with open sizes depend on it. `None` for the
            model's own shape.
        batch_size: Positive integer, to measure too how many milliseconds each
            layer takes to predict a batch of so many random examples: the
            median of some calls of the layer alone. `None` (default) measures
            nothing.

    Returns:
        List of rows with the attributes `layer`, `kernel`, `shape`, `active`,
        `total`, `sparsity`, `flops`, `dense_flops`, `note`, `nbytes`,
        `storage` and `milliseconds`. `print` shows it as the table, and a
        notebook as a table of its own.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, `print_fn` cannot be called,
            `input_shape` does not fit the model's inputs or is missing where
            they leave sizes open, or `batch_size` is not positive.

    Example:

    ```python
    rows = keras_freetickets.sparsity_summary(model)
    active = sum(row.active for row in rows if row.shape)
    ```
    """
    check_model("model", model)
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
    costs = _Costs(model, input_shape)
    summary = SparsitySummary(
        _rows(model, costs, _times(model, batch_size, input_shape)),
        f'Sparsity of model "{model.name}"',
        costs.reason,
    )
    if print_fn is None:
        summary._print()
    elif print_fn:
        print_fn(str(summary))
    return summary
