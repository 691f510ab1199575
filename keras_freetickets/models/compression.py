"""Conversion of masked kernels to compressed ones and back."""

import typing

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_number
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.layers.compressed_kinds import compressed_kind
from keras_freetickets.layers.compressed_kinds import reason_against
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.models.copying import copied
from keras_freetickets.models.copying import leaf_layers
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.optional import import_optional
from keras_freetickets.types import Layer
from keras_freetickets.types import Model

# Above it a dense product is faster (docs/real_sparsity.md).
MAX_COMPRESSED_DENSITY = 0.2


def compressed_or_noted(
    sparse: Sparse, max_density: float, room: int | None = None
) -> Layer:
    """The compressed layer of a masked one, or the masked one and why.

    Args:
        sparse: A built `Sparse`.
        max_density: Float, the highest density of a kernel to compress.
        room: Integer, for how many weights there is room. `None` for as many
            as are active.

    Returns:
        A `Compressed` layer, or `sparse` with a note.
    """
    reason = _reason_against(sparse, max_density, room)
    if reason:
        sparse.note = f"masked: {reason}"
        return sparse
    (masked,) = sparse.masked_kernels
    kind = typing.cast(type[Compressed], compressed_kind(sparse.layer))
    settings = {"name": sparse.name, "trainable": sparse.trainable}
    if room is not None:
        settings["active"] = room
    return kind.from_dense(sparse.layer, masked.mask_array(), **settings)


def _reason_against(sparse, max_density, room):
    reason = reason_against(sparse.layer)
    if reason:
        return reason
    if sparse.state:
        return f"a method keeps {sorted(sparse.state)} of every connection"
    masked_kernels = sparse.masked_kernels
    names = [masked.name.rpartition("/")[2] for masked in masked_kernels]
    if names != ["kernel"]:
        return f"{names} are masked, and only a kernel can be compressed"
    count = masked_kernels[0].count() if room is None else room
    density = count / masked_kernels[0].size
    if not density:
        return "it has no active weight"
    if density > max_density:
        return (
            f"density {density:.3g} is above {max_density:.3g}, where dense is "
            "faster (`max_compressed_density`)"
        )
    return ""


def _converted(model, place):
    if not isinstance(model, SparseModel) or not isinstance(
        model, keras_adapter.Functional
    ):
        raise TypeError(
            "`model` must be a functional SparseModel, made by `sparsify`. "
            f"Received: model of type {type(model).__name__}"
        )
    keras_adapter.synchronize(model)
    return copied(model, type(model), place)


def compress_model(
    model: Model,
    max_compressed_density: float = MAX_COMPRESSED_DENSITY,
    rooms: dict[str, int] | None = None,
) -> Model:
    """`compress` of one model, with room for more weights in some layers.

    Args:
        model: A functional `SparseModel`.
        max_compressed_density: As for `compress`.
        rooms: Dict from names of layers to integers.

    Returns:
        A `SparseModel`, not compiled.
    """
    check_number("max_compressed_density", max_compressed_density, "(0, 1]")
    import_optional("numba")
    rooms = rooms or {}

    def place(layer: Layer, copy: Layer) -> Layer:
        if not isinstance(copy, Sparse):
            return copy
        room = rooms.get(layer.name)
        return compressed_or_noted(copy, max_compressed_density, room)

    return _converted(model, place)


def compress(
    model: Model, max_compressed_density: float = MAX_COMPRESSED_DENSITY
) -> Model:
    """Makes a copy of a masked model or ensemble with compressed kernels.

    It predicts, or goes on training, with its active weights alone. Nothing is
    lost: values and connections are the same, and `decompress` gives the masks
    back. What cannot be compressed, or is too dense to gain, keeps its mask;
    `sparsity_summary` says why.

    Args:
        model: A functional `SparseModel`, or an `EnsembleModel` of such.
        max_compressed_density: As for `sparsify`.

    Returns:
        A `SparseModel`, not compiled, or an `EnsembleModel`.

    Raises:
        TypeError: If `model` is neither.
        ImportError: If numba is not installed.
        ValueError: If `max_compressed_density` is not in (0, 1].

    Example:

    ```python
    fast = keras_freetickets.compress(masked_model)
    ```
    """
    if not isinstance(model, EnsembleModel):
        return compress_model(model, max_compressed_density)
    members = [model.member(i) for i in range(model.num_members)]
    rooms = highest_counts(members)
    return _ensemble_like(
        model,
        [compress_model(m, max_compressed_density, rooms) for m in members],
    )


def _ensemble_like(ensemble, members):
    return type(ensemble)(
        members,
        ensemble.from_logits,
        ensemble.ignore_class,
        ensemble.name,
        ensemble.pooling,
    )


def decompress(model: Model) -> Model:
    """Makes a copy of a sparse model with masks for compressed kernels.

    Nothing is lost: values and masks are the same.

    Args:
        model: A functional `SparseModel`, or an `EnsembleModel` of such.

    Returns:
        A `SparseModel`, not compiled, or an `EnsembleModel`.

    Raises:
        TypeError: If `model` is neither.

    Example:

    ```python
    masked = keras_freetickets.decompress(compressed_model)
    ```
    """
    if isinstance(model, EnsembleModel):
        members = [model.member(i) for i in range(model.num_members)]
        return _ensemble_like(model, [decompress(m) for m in members])

    def place(layer: Layer, copy: Layer) -> Layer:
        return _masked(copy) if isinstance(copy, Compressed) else copy

    return _converted(model, place)


def _masked(layer: Compressed) -> Sparse:
    """A `Sparse` around the dense layer of a compressed one."""
    (record,) = layer.masked_kernels
    dense = layer.to_dense()
    dense.trainable = layer.trainable
    # That of the room, which members of an ensemble have in common.
    sparsity = 1.0 - layer.active / record.size
    sparse = Sparse(dense, sparsity=sparsity, kernels=("kernel",), seed=0)
    kernel = record.kernel_array()
    sparse.build()
    (masked,) = sparse.masked_kernels
    masked.mask.assign(record.mask_array())
    masked.kernel.assign(kernel)
    masked.active = masked.initial = record.count()
    return sparse


def highest_counts(models: list[Model]) -> dict[str, int]:
    """The most active weights that each layer has in one of several models.

    Args:
        models: List of `SparseModel`s of the same architecture.

    Returns:
        Dict from names of layers to integers.
    """
    found: dict[str, int] = {}
    for model in models:
        for layer in leaf_layers(model):
            if isinstance(layer, Sparse) and len(layer.masked_kernels) == 1:
                count = layer.masked_kernels[0].count()
                found[layer.name] = max(found.get(layer.name, 0), count)
    return found
