"""Private parts of Keras' functional models and nested layers."""

import math
import typing
from collections.abc import Callable

import keras
from keras import tree
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional

from keras_freetickets.keras_adapter.layers import copy_own_adapted_state
from keras_freetickets.keras_adapter.layers import created_trainable
from keras_freetickets.keras_adapter.layers import inner_names
from keras_freetickets.keras_adapter.layers import same_shape
from keras_freetickets.keras_adapter.layers import set_trainable
from keras_freetickets.keras_adapter.layers import variables_by_name
from keras_freetickets.types import KerasMixin
from keras_freetickets.types import Layer
from keras_freetickets.types import Model
from keras_freetickets.types import PathLike
from keras_freetickets.types import Tensor


def paired_variables(model: Layer, other: Layer) -> list[tuple]:
    """Pairs the variables of two layers or models of one architecture.

    Variables are paired by the layer that owns them (`paired_layers`) and
    their names in it. The order of `variables` cannot be used: it differs
    between a layer that was quantized in place and the same layer made from
    its config, and LoRA moves kernels to the end. Only if the names in a layer
    differ (Keras invents names for unnamed variables), its variables are
    paired by order.

    Args:
        model: A built Keras layer or model.
        other: A layer or model of the same architecture.

    Returns:
        List of pairs of variables, each variable once.

    Raises:
        ValueError: If the two do not have the same variables.
    """
    pairs: dict[int, tuple] = {}
    fits = True
    for part, other_part in paired_layers(model, other).values():
        mine = {} if part is None else variables_by_name(part)
        theirs = {} if other_part is None else variables_by_name(other_part)
        if len(mine) != len(theirs):
            fits = False
            break
        by_name = mine.keys() == theirs.keys()
        partners = [theirs[n] for n in mine] if by_name else theirs.values()
        for variable, partner in zip(mine.values(), partners, strict=True):
            fits = fits and same_shape(partner, variable)
            pairs[id(variable)] = (variable, partner)
    if not fits:
        raise ValueError(
            f"'{other.name}' must have the same weights as '{model.name}', "
            "layer by layer, to copy their values. Received: "
            f"{_paths_and_shapes(other)} for {_paths_and_shapes(model)}"
        )
    return list(pairs.values())


def _paths_and_shapes(layer):
    return {v.path: tuple(v.shape) for v in layer.variables}


class _View:
    """An object with some of its attributes replaced, of the same class."""

    def __init__(self, of, **replaced):
        self.__dict__.update(replaced, _of=of)

    def __getattr__(self, name):
        return getattr(self._of, name)

    @property  # type: ignore[misc]
    def __class__(self):
        # `isinstance` uses it, and Keras uses its name.
        return self.__dict__.get("kind", type(self._of))


def summary(
    model: Model, hidden: set[int], kind: Callable, **kwargs: typing.Any
) -> None:
    """Prints Keras' summary of a model without some variables.

    `Model.summary` counts `non_trainable_weights`. It asks each of `layers`
    (of a functional model: `_operations`) for `count_params` and its class
    name, and enters layers that have `layers`.

    Args:
        model: A Keras model.
        hidden: Set of ids of variables that are not counted.
        kind: Function from a layer to the class name to show, or `None` to
            leave the layer out.
        **kwargs: As for `keras.Model.summary`.
    """

    def shown(layers):
        return [view(layer) for layer in layers if kind(layer) is not None]

    def view(layer):
        if not hasattr(layer, "weights"):
            return layer  # an operation of the graph
        counted = [v.shape for v in layer.weights if id(v) not in hidden]
        replaced = {
            "count_params": lambda: sum(map(math.prod, counted)),
            "kind": type(kind(layer), (type(layer),), {}),
        }
        if isinstance(layer, keras.Model):
            replaced["layers"] = shown(layer.layers)
        return _View(layer, **replaced)

    replaced = {
        "layers": shown(model.layers),
        "non_trainable_weights": [
            v for v in model.non_trainable_weights if id(v) not in hidden
        ],
    }
    if isinstance(model, Functional):
        replaced["_operations"] = shown(model._operations)
    keras.Model.summary(_View(model, **replaced), **kwargs)


def copy_adapted_state(layer: Layer, copy: Layer) -> None:
    """Copies the state set by `adapt` of a layer and its sublayers."""
    for part, other in paired_layers(layer, copy).values():
        copy_own_adapted_state(part, other)


def refuse_legacy_config(obj: typing.Any) -> None:
    """Raises while a model is saved to Keras' legacy HDF5 format.

    Keras can write any class to this format, but reads only its own classes.
    """
    if global_state.get_global_attribute("use_legacy_config"):
        raise ValueError(_LEGACY_FILE.format(type(obj).__name__))


_LEGACY_FILE = (
    "`filepath` must end in `.keras`: Keras could write a {} to its legacy "
    "HDF5 format (`.h5`), but not load it. To save only the weights call "
    "`save_weights('name.weights.h5')`."
)


class RefusesLegacyFiles(KerasMixin):
    """A model that refuses file formats that Keras could not load."""

    def save(
        self, filepath: PathLike, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        if str(filepath).endswith((".h5", ".hdf5")):
            reason = _LEGACY_FILE.format(type(self).__name__)
            raise ValueError(f"{reason} Received: filepath={filepath}")
        return super().save(filepath, *args, **kwargs)


def _seen_through(layer, through):
    """The layer inside a wrapper of the class `through`, else the layer."""
    return layer.layer if through and isinstance(layer, through) else layer


def _held_in(value, name, tracked):
    """Layers in an attribute, each with the keys that lead to it."""
    if isinstance(value, keras.Layer):
        if id(value) in tracked:
            yield (name,), value
        return
    items: typing.Iterable[tuple[typing.Any, typing.Any]]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return
    for key, item in items:
        for way, layer in _held_in(item, str(key), tracked):
            yield (name, *way), layer


def _named_children(layer):
    """The direct sublayers, by the attributes that hold them."""
    children = list(layer._layers)
    tracked = {id(child) for child in children}
    if isinstance(layer, (Functional, keras.Sequential)):
        # Their own lists have one more entry for a Sequential's input.
        yield from _held_in(list(layer.layers), "layers", tracked)
    for name in sorted(vars(layer)):
        if name not in ("_layers", "_functional"):
            yield from _held_in(vars(layer)[name], name, tracked)
    for i, child in enumerate(children):
        yield ("_layers", str(i)), child


def parts_by_way(
    layer: Layer, through: type | None = None
) -> dict[tuple[str, ...], Layer]:
    """A layer and all sublayers, each once, by the attributes leading there.

    Keras lists layers and weights in the order in which they were made, which
    may differ in a copy. The attributes are the same, as in Keras' files.

    Args:
        layer: A layer or model.
        through: Class of wrappers that are replaced by the layer inside.

    Returns:
        Dict from tuples of strings to layers.
    """
    found, seen = {}, set()

    def visit(part, way):
        part = _seen_through(part, through)
        if id(part) in seen:
            return
        seen.add(id(part))
        found[way] = part
        for more, child in _named_children(part):
            visit(child, way + more)

    visit(layer, ())
    return found


def paired_layers(
    layer: Layer, other: Layer, through: type | None = None
) -> dict[tuple[str, ...], tuple[Layer | None, Layer | None]]:
    """Pairs two layers of the same structure, and their sublayers.

    Args:
        layer: A layer or model.
        other: A layer or model of the same structure.
        through: Class of wrappers in `layer`, as for `parts_by_way`.

    Returns:
        Dict from the keys of `parts_by_way` to pairs of layers. A layer is
        `None` if only the other has one for this key.
    """
    parts, others = parts_by_way(layer, through), parts_by_way(other)
    return {way: (parts.get(way), others.get(way)) for way in parts | others}


def frozen_parts(model: Model) -> list[str]:
    """The frozen layers and weights of a model.

    Returns:
        List of strings: paths of attributes to layers; for weights, followed
        by a colon and a name.
    """
    found = []
    for way, part in parts_by_way(model).items():
        place = "/".join(way)
        if not part.trainable:
            found.append(place)
        frozen = [n for n, v in created_trainable(part) if not v.trainable]
        found += [f"{place}:{name}" for name in frozen]
    return found


def freeze_parts(model: Model, places: typing.Any) -> None:
    """Freezes what `frozen_parts` listed, and unfreezes everything else."""
    for way, part in parts_by_way(model).items():
        place = "/".join(way)
        set_trainable(part, place not in places)
        for name, v in created_trainable(part):
            v.trainable = f"{place}:{name}" not in places


def name_by_layers(model: Model, through: type) -> None:
    """Gives variables paths that always consist of their layers' names.

    In Keras the path of a variable depends on how its layer was first built:
    by a call in a model, or alone, from a file. Tools that match by path
    (OrbaxCheckpoint) therefore find no weight of a loaded Sequential model.

    Args:
        model: A functional model.
        through: Class of wrappers that have the name of the layer inside.
    """
    seen = set()

    def visit(layer, path):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        for v in layer._trainable_variables + layer._non_trainable_variables:
            v._path = "/".join([*path, v.name])
        for i, generator in enumerate(layer._seed_generators):
            generator.state._path = "/".join([*path, f"seed_generator_{i}"])
        for child, name in inner_names(layer):
            visit(child, path if isinstance(layer, through) else [*path, name])

    visit(model, [])


def ends_of_graph(model: Model) -> tuple:
    """Inputs and outputs of a model, in their original structure."""
    graph = getattr(model, "_functional", None) or model
    return graph._inputs_struct, graph._outputs_struct


def new_input(tensor: Tensor, batch_shape: tuple | None = None) -> Tensor:
    """A new `keras.Input` equal to the one that a tensor comes from.

    Args:
        tensor: The output of an input layer.
        batch_shape: Tuple, another shape for it; `None` for the same.
    """
    layer = tensor._keras_history.operation
    config = layer.get_config()
    if batch_shape is not None:
        config = {**config, "batch_shape": batch_shape}
    return type(layer).from_config(config).output


def rerun(
    model: Model, convert: Callable, make_input: Callable = new_input
) -> tuple:
    """Rebuilds the graph of a model with new inputs and other layers.

    Args:
        model: A functional model.
        convert: Callable from a layer or operation to the one to use instead.
        make_input: Callable from the tensor of an input to that of a new one.

    Returns:
        Inputs and outputs.
    """
    graph = getattr(model, "_functional", None) or model
    inputs = tree.map_structure(make_input, graph._inputs_struct)
    outputs = graph._run_through_graph(inputs, operation_fn=convert)
    return inputs, outputs


def origin(tensor: Tensor) -> tuple:
    """The operation that made a symbolic tensor, and its input tensors."""
    operation, node, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors
