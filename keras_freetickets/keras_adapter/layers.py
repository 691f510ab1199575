"""Private parts of Keras' layers and variables."""

import contextlib
import re
import tempfile
import typing
from collections.abc import Callable
from collections.abc import Iterator

import keras
from keras import ops
from keras import tree
from keras.dtype_policies import DTypePolicyMap
from keras.src import backend
from keras.src.layers.layer import CallSpec
from keras.src.models.functional import Functional
from keras.src.quantizers.utils import should_quantize_layer
from keras.src.saving import serialization_lib
from keras.src.utils import python_utils
from keras.src.utils.naming import to_snake_case

from keras_freetickets.types import Array
from keras_freetickets.types import Config
from keras_freetickets.types import Layer
from keras_freetickets.types import Model
from keras_freetickets.types import Tensor
from keras_freetickets.types import Variable


def infers_shapes() -> bool:
    """Whether a call only infers shapes, so that its values mean nothing.

    Keras has a public way to infer shapes, but not to ask whether it does.
    """
    return backend.in_symbolic_scope()


def mask_of(tensor: Tensor) -> Tensor | None:
    """The mask that layers attached to a tensor, or `None`.

    Keras' losses and metrics skip masked positions.
    """
    return backend.get_keras_mask(tensor)


def set_mask(tensor: Tensor, mask: typing.Any) -> None:
    """Attaches a mask to a tensor, as layers and Keras' own losses do."""
    backend.set_keras_mask(tensor, mask)


def config_of(layer: Layer) -> Config:
    """The config of a layer, with which a copy has the same dtypes.

    A `DTypePolicyMap` maps paths to dtypes, and a copy has other paths.
    """
    config = layer.get_config()
    policies = getattr(layer, "_dtype_policy", None)
    if not layer.path or not isinstance(policies, DTypePolicyMap):
        return config
    found = DTypePolicyMap(default_policy=policies.default_policy)
    above = layer.path.removesuffix(layer.name)
    for part in sublayers(layer):
        if part.path:
            for path in {part.path, part.path.removeprefix(above)}:
                found[path] = policies[part.path]
    return {**config, "dtype": keras.saving.serialize_keras_object(found)}


def adopt_call_signature(wrapper: Layer, layer: Layer) -> None:
    """Lets a wrapper be called exactly like the layer that it wraps.

    Keras reads the argument names of `call` once, in `__init__`, to pass
    masks, the training flag and shapes.
    """
    for name in (
        "_call_signature",
        "call_signature_parameters",
        "_call_has_training_arg",
        "_call_has_mask_arg",
        "_call_has_context_arg",
    ):
        setattr(wrapper, name, getattr(layer, name))


def build_for_call(layer: Layer, args: tuple, kwargs: dict) -> None:
    """Builds a layer from the shapes of a call, as the call itself would.

    A layer without its own `build` is called: after loading, Keras considers
    it built although its sublayers are not.
    """
    if not builds_itself(layer):
        layer.built = False
    context = layer._call_context_args
    layer._maybe_build(
        CallSpec(layer._call_signature, context, args, dict(kwargs))
    )


# Marks a `build` that does not need the shapes of every argument.
default = python_utils.default


def build_by_shapes(model: Model, input_shape: typing.Any) -> None:
    """Builds the layers of a model as a call on inputs of this shape would.

    Keras' own `Model.build` marks a subclassed model as built but leaves its
    layers unbuilt until the first call, which may be in a traced step.
    """

    def symbolic(shape):
        return keras.KerasTensor(shape)

    inputs = tree.map_shape_structure(symbolic, input_shape)
    backend.compute_output_spec(model.call, inputs)


def is_deferred(variable: Variable) -> bool:
    """Whether a variable has no value yet (stateless building)."""
    return variable._value is None


@contextlib.contextmanager
def eager_scope() -> Iterator[None]:
    """Leaves the graph that is being traced, so that values can be read."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():
            yield
    elif keras.backend.backend() == "jax":
        import jax

        with jax.ensure_compile_time_eval():
            yield
    else:
        yield


def first_value(variable: Variable) -> Array:
    """A variable's value as an array; if it is deferred, its initial value."""
    with eager_scope():
        if is_deferred(variable):
            make = variable._initializer
            value = make(variable._shape, dtype=variable._dtype)
        else:
            value = variable.value
        return ops.convert_to_numpy(value)


def set_first_value(variable: Variable, value: Array) -> None:
    """Sets the value of a variable during a lazy build.

    An `assign` would become an operation of the traced graph and be lost. So a
    deferred variable gets another initializer, and any other is assigned
    outside the graph.
    """
    if is_deferred(variable):
        variable._initializer = lambda shape, dtype=None: ops.convert_to_tensor(
            value, dtype=dtype
        )
        return
    with eager_scope():
        variable.assign(value)


@contextlib.contextmanager
def unlocked(layer: Layer) -> Iterator[None]:
    """Context in which a built layer can add weights."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def sublayers(layer: Layer) -> list[Layer]:
    """A layer and all its sublayers, recursively, outermost first."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def inner_layers(layer: Layer) -> list[Layer]:
    """The direct sublayers of a layer."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def quantized_by(model: Model, filters: typing.Any) -> list[Layer]:
    """The layers that `model.quantize(filters=filters)` would change."""
    return [
        layer
        for layer in sublayers(model)[1:]
        if not layer._layers and should_quantize_layer(layer, filters)
    ]


# In the order in which Keras makes them, and so lists them as sublayers.
_PROJECTIONS = (
    "_query_dense",
    "_key_dense",
    "_gate_dense",
    "_value_dense",
    "_output_dense",
)


def attention_projections(attention: Layer) -> list[Layer]:
    """The dense layers of a built attention of Keras, in their order."""
    return [
        getattr(attention, name)
        for name in _PROJECTIONS
        if hasattr(attention, name)
    ]


def replace_projections(
    attention: Layer, make: Callable[[Layer], Layer]
) -> None:
    """Replaces the dense layers of an attention, while that is being built.

    Keras' attention has no hook for the layers that it projects with.

    Args:
        attention: A `keras.layers.MultiHeadAttention` or
            `GroupQueryAttention`, in its `build`.
        make: Callable from a dense layer to the one to take its place.
    """
    for name in _PROJECTIONS:
        if hasattr(attention, name):
            dense = getattr(attention, name)
            attention._tracker.untrack(dense)
            delattr(attention, name)
            setattr(attention, name, make(dense))


def stored_weight(layer: Layer, name: str) -> Variable:
    """The variable of a weight, also if the layer is quantized or has LoRA.

    Then `layer.kernel` is a tensor in Keras.
    """
    value = getattr(layer, name)
    if isinstance(value, keras.Variable):
        return value
    quantized = getattr(layer, f"quantized_{name}", None)
    return getattr(layer, f"_{name}", quantized)


def own_trained(layer: Layer) -> list[Variable]:
    """A layer's own trainable weights, also if they are frozen."""
    return list(layer._trainable_variables)


def variables_by_name(layer: Layer) -> dict[tuple[str, int], Variable]:
    """A layer's own variables by name, without those of sublayers.

    Equal names are numbered; seeds come last.
    """
    variables = list(layer._trainable_variables)
    variables += layer._non_trainable_variables
    variables += [g.state for g in layer._seed_generators]
    named: dict[tuple[str, int], Variable] = {}
    for variable in {id(v): v for v in variables}.values():
        same = sum(name == variable.name for name, _ in named)
        named[variable.name, same] = variable
    return named


def inner_names(layer: Layer) -> list[tuple[Layer, str]]:
    """Pairs of each direct sublayer and a name that is always the same.

    The layer names of a model are saved with it. But if a layer makes
    sublayers in its constructor, Keras numbers their names through the session
    (`dense_17`); here the number counts the sublayers (`dense_1`).
    """
    children = list(layer._layers)
    if isinstance(layer, (Functional, keras.Sequential)):
        return [(child, child.name) for child in children]
    pairs: list[tuple[Layer, str]] = []
    counts: dict[str, int] = {}
    for child in children:
        name = to_snake_case(type(child).__name__)
        if re.sub(r"_\d+$", "", child.name) != name:
            pairs.append((child, child.name))
            continue
        count = counts[name] = counts.get(name, -1) + 1
        pairs.append((child, f"{name}_{count}" if count else name))
    return pairs


def _has_adapted_state(layer):
    return hasattr(layer, "finalize_state") or hasattr(layer, "save_assets")


def adapted_layers(layer: Layer) -> list[Layer]:
    """The layer and its sublayers that may have a state set by `adapt`.

    Normalization, TextVectorization, StringLookup and similar layers hold it
    in addition to their weights.
    """
    return [part for part in sublayers(layer) if _has_adapted_state(part)]


def copy_own_adapted_state(layer: Layer, copy: Layer) -> None:
    """Copies a preprocessing layer's state, set by `adapt` or a vocabulary."""
    if not _has_adapted_state(layer):
        return
    stored: dict[str, Tensor] = {}
    layer.save_own_variables(stored)
    stored = {k: ops.convert_to_numpy(v) for k, v in stored.items()}
    copy.load_own_variables(stored)
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)


def builds_itself(layer: Layer) -> bool:
    """Whether a layer defines its own `build`, not only a `call`."""
    return not python_utils.is_default(type(layer).build)


def build_as_called(copy: Layer, layer: Layer) -> bool:
    """Builds a copy as the layer was built by its first call in a graph.

    Returns:
        Boolean, whether there is such a call.
    """
    if not layer._inbound_nodes:
        return False
    arguments = layer._inbound_nodes[0].arguments
    with copy._open_name_scope():
        build_for_call(copy, arguments.args, arguments.kwargs)
    return True


@contextlib.contextmanager
def trusting() -> Iterator[None]:
    """Context in which objects with Python code, such as `Lambda`, load.

    Keras refuses them because their code may come from a file; here it does
    not.
    """
    with serialization_lib.SafeModeScope(safe_mode=False):
        yield


def own_variables(layer: Layer) -> dict[str, Variable]:
    """A layer's own weights, not those of sublayers, by attribute or name."""
    names: dict[int, str] = {}
    for name, value in sorted(vars(layer).items()):
        if isinstance(value, keras.Variable):
            names.setdefault(id(value), name)
    found: dict[str, Variable] = {}
    for v in layer._trainable_variables + layer._non_trainable_variables:
        name = names.get(id(v), v.name)
        count = sum(key.split("#")[0] == name for key in found)
        found[f"{name}#{count}" if count else name] = v
    return found


def set_trainable(layer: Layer, trainable: bool) -> None:
    """Sets the flag of a layer only, not of its sublayers.

    The public setter sets those too, but on TensorFlow it does nothing if the
    layer's flag already has this value.
    """
    layer._trainable = trainable


def created_trainable(layer: Layer) -> list[tuple[str, Variable]]:
    """Names and values of a layer's trainable weights, also if frozen."""
    trained = {id(v) for v in layer._trainable_variables}
    return [(n, v) for n, v in own_variables(layer).items() if id(v) in trained]


def name_beside(variable: Variable, other: Variable) -> None:
    """Gives a variable a path in the layer of another variable."""
    above = other.path.rpartition("/")[0]
    variable._path = f"{above}/{variable.name}" if above else variable.name


def same_shape(slot: typing.Any, variable: Variable) -> bool:
    shape = getattr(slot, "shape", None)
    return shape is not None and tuple(shape) == tuple(variable.shape)


def build_from_batch(model: Model, x: typing.Any) -> None:
    """Builds a lazy model from the shapes of a batch, outside the graph.

    A mask needs a kernel's value, but variables that are made while a step is
    traced have none yet.
    """

    def symbolic(tensor):
        return keras.KerasTensor(tensor.shape, tensor.dtype)

    with eager_scope():
        backend.compute_output_spec(model, tree.map_structure(symbolic, x))


def seed_states(model: Model) -> list[Variable]:
    """State variables of all seed generators, which Keras does not save."""
    held = {id(v) for v in model.variables}
    states = []
    for layer in sublayers(model):
        for generator in getattr(layer, "_seed_generators", []):
            if id(generator.state) not in held:
                held.add(id(generator.state))
                states.append(generator.state)
    return states


@contextlib.contextmanager
def momentum(layers: list, value: float) -> Iterator[None]:
    """Context in which batch-normalization layers have another momentum."""
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = value
    try:
        yield
    finally:
        for layer, old in zip(layers, kept, strict=True):
            layer.momentum = old
