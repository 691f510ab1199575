"""Conversion of masked kernels to compressed ones and back."""

import typing

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_number
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.layers.compressed_kernels import CompressesKernels
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
    sparse: Sparse, max_density: float, rooms: list[int] | None = None
) -> Layer:
    """The compressed layer of a masked one, or the masked one and why.

    Args:
        sparse: A built `Sparse`.
        max_density: Float, the highest density of a kernel to compress.
        rooms: List of integers, for how many weights of each kernel there is
            room. `None` for as many as are active.

    Returns:
        A `CompressesKernels` layer, or `sparse` with a note.
    """
    if rooms is None:
        rooms = [masked.count() for masked in sparse.masked_kernels]
    reason = _reason_against(sparse, max_density, rooms)
    if reason:
        sparse.note = f"masked: {reason}"
        return sparse
    kind = typing.cast(type[CompressesKernels], compressed_kind(sparse.layer))
    masks = [masked.mask_array() for masked in sparse.masked_kernels]
    settings = {"name": sparse.name, "trainable": sparse.trainable}
    return kind.from_masks(sparse.layer, masks, rooms, **settings)


def _reason_against(sparse, max_density, rooms):
    reason = reason_against(sparse.layer)
    if reason:
        return reason
    if sparse.state:
        return f"a method keeps {sorted(sparse.state)} of every connection"
    masked_kernels = sparse.masked_kernels
    kind = typing.cast(type[CompressesKernels], compressed_kind(sparse.layer))
    dense_layers = kind.dense_layers_of(sparse.layer)
    needed = [id(getattr(dense, kind.role)) for dense in dense_layers]
    names = [masked.name.partition("/")[2] for masked in masked_kernels]
    if [id(masked.kernel) for masked in masked_kernels] != needed:
        return f"{names} are masked, and only a {kind.role} can be compressed"
    # All kernels of a layer have one storage.
    for dense, masked, room in zip(
        dense_layers, masked_kernels, rooms, strict=True
    ):
        reason = _reason_of_density(room / masked.size, max_density)
        if reason and dense is not sparse.layer:
            return f"in projection '{dense.name}', {reason}"
        if reason:
            return reason
    return ""


def _reason_of_density(density, max_density):
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
    rooms: dict[str, list[int]] | None = None,
) -> Model:
    """`compress` of one model, with room for more weights in some layers.

    Args:
        model: A functional `SparseModel`.
        max_compressed_density: As for `compress`.
        rooms: Dict from names of layers to lists of integers, one for each
            kernel.

    Returns:
        A `SparseModel`, not compiled.
    """
    check_number("max_compressed_density", max_compressed_density, "(0, 1]")
    import_optional("numba")
    rooms = rooms or {}

    def place(layer: Layer, copy: Layer) -> Layer:
        if not isinstance(copy, Sparse):
            return copy
        found = rooms.get(layer.name)
        return compressed_or_noted(copy, max_compressed_density, found)

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
        return _masked(copy) if isinstance(copy, CompressesKernels) else copy

    return _converted(model, place)


def _masked(layer: CompressesKernels) -> Sparse:
    """A `Sparse` around the dense layer of a compressed one."""
    records = layer.masked_kernels
    dense = layer.to_dense()
    if not layer.trainable:
        dense.trainable = False
    # That of the room, which members of an ensemble have in common.
    sparsities = [1.0 - r.layer.active / r.size for r in records]
    sparse = Sparse(
        dense,
        sparsity=sparsities[0] if len(records) == 1 else sparsities,
        kernels=(layer.role,),
        seed=0,
    )
    kernels = [record.kernel_array() for record in records]
    sparse.build()
    for masked, record, kernel in zip(
        sparse.masked_kernels, records, kernels, strict=True
    ):
        masked.mask.assign(record.mask_array())
        masked.kernel.assign(kernel)
        masked.active = masked.initial = record.count()
    return sparse


def highest_counts(models: list[Model]) -> dict[str, list[int]]:
    """The most active weights that each kernel has in one of several models.

    Args:
        models: List of `SparseModel`s of the same architecture.

    Returns:
        Dict from names of layers to lists of integers, one for each kernel.
    """
    found: dict[str, list[int]] = {}
    for model in models:
        for layer in leaf_layers(model):
            if isinstance(layer, Sparse):
                counts = [masked.count() for masked in layer.masked_kernels]
                before = found.get(layer.name, counts)
                both = zip(before, counts, strict=True)
                found[layer.name] = [max(pair) for pair in both]
    return found
