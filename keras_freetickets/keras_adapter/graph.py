"""Private parts of Keras' graphs of layers, and of what holds several."""

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

    Each is found by its place: the layer that owns it (`paired_layers`) and
    its name there. The order of `variables` says nothing: that of a layer
    quantized in place is not that of the same layer made from its config, and
    LoRA moves kernels to the end. Where a layer's variables have other names
    (Keras makes up names for those that have none), they go by their order.

    Args:
        model: A built Keras layer or model.
        other: Another of the same architecture.

    Returns:
        List of pairs of variables, each variable once.

    Raises:
        ValueError: If the two do not hold the same variables.
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
            f"'{other.name}' must hold the same weights as '{model.name}', "
            "layer by layer, to take over their values. Received: "
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
        # `isinstance` asks for it, and Keras for its name.
        return self.__dict__.get("kind", type(self._of))


def summary(
    model: Model, hidden: set[int], kind: Callable, **kwargs: typing.Any
) -> None:
    """Prints Keras' summary of a model, some variables left out.

    `Model.summary` counts `non_trainable_weights`, asks each of `layers` (of
    a graph: of `_operations`) for `count_params` and for the name of its
    class, and goes into the layers of those that have `layers`.

    Args:
        model: A Keras model.
        hidden: Set of the ids of variables that are not counted.
        kind: Function from a layer to the name of its class; `None` to leave
            it out.
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
    """Takes over what `adapt` gave to all layers within a layer."""
    for part, other in paired_layers(layer, copy).values():
        copy_own_adapted_state(part, other)


def refuse_legacy_config(obj: typing.Any) -> None:
    """Raises while a model is written to an HDF5 file as Keras 2 wrote it.

    Keras writes the config of any class to it and reads those of its own.
    """
    if global_state.get_global_attribute("use_legacy_config"):
        raise ValueError(_LEGACY_FILE.format(type(obj).__name__))


_LEGACY_FILE = (
    "`filepath` must end in `.keras`: Keras writes a {} to its legacy HDF5 "
    "format (`.h5`), but cannot read it again. For the weights alone call "
    "`save_weights('name.weights.h5')`."
)


class RefusesLegacyFiles(KerasMixin):
    """A model that is not written to a file that Keras cannot read."""

    def save(
        self, filepath: PathLike, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        if str(filepath).endswith((".h5", ".hdf5")):
            reason = _LEGACY_FILE.format(type(self).__name__)
            raise ValueError(f"{reason} Received: filepath={filepath}")
        return super().save(filepath, *args, **kwargs)


def _seen_through(layer, through):
    """The layer that a wrapper of a class to look through stands for."""
    return layer.layer if through and isinstance(layer, through) else layer


def _held_in(value, name, tracked):
    """Layers in an attribute, each with its place in there."""
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
    """The layers directly within, by the attributes that hold them."""
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
    """A layer and all within, each once, by the attributes that lead there.

    Keras lists layers and weights in the order in which they were made, which
    is another for a copy that is built in another way. Attributes are the
    same, as they are in its files.

    Args:
        layer: A layer or model.
        through: Class of wrappers in place of which stands what they wrap.

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
    """Pairs all within two layers of one structure, by place.

    Args:
        layer: A layer or model.
        other: Another of the same structure.
        through: Class of wrappers in `layer`, as for `parts_by_way`.

    Returns:
        Dict from places, as `parts_by_way` gives them, to pairs of layers;
        `None` where one of the two has no layer at a place.
    """
    parts, others = parts_by_way(layer, through), parts_by_way(other)
    return {way: (parts.get(way), others.get(way)) for way in parts | others}


def frozen_parts(model: Model) -> list[str]:
    """What is frozen in a model: layers, and weights that a layer trains.

    Returns:
        List of strings: ways to layers, and to weights after a colon.
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
    """Freezes what `frozen_parts` listed, and nothing else."""
    for way, part in parts_by_way(model).items():
        place = "/".join(way)
        set_trainable(part, place not in places)
        for name, v in created_trainable(part):
            v.trainable = f"{place}:{name}" not in places


def name_by_layers(model: Model, through: type) -> None:
    """Gives variables paths that say which layers they are in, always.

    In Keras the path of a variable depends on how its layer was first built:
    by a call within a model, or alone, from a file. So one that matches by
    paths (OrbaxCheckpoint) finds no weight of a loaded Sequential model.

    Args:
        model: A functional model.
        through: Class of wrappers that go by the name of what they wrap.
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
    """Inputs and outputs of a model, in the structure they were given in."""
    graph = getattr(model, "_functional", None) or model
    return graph._inputs_struct, graph._outputs_struct


def new_input(tensor: Tensor) -> Tensor:
    """Another `keras.Input` like that which a tensor comes from."""
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def rerun(model: Model, convert: Callable) -> tuple:
    """The graph of a model again, on new inputs and with other layers.

    Args:
        model: A model with a graph.
        convert: Callable of a layer or operation that returns another.

    Returns:
        Inputs and outputs.
    """
    graph = getattr(model, "_functional", None) or model
    inputs = tree.map_structure(new_input, graph._inputs_struct)
    outputs = graph._run_through_graph(inputs, operation_fn=convert)
    return inputs, outputs


def origin(tensor: Tensor) -> tuple:
    """The operation that made a symbolic tensor, and its input tensors."""
    operation, node, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors
