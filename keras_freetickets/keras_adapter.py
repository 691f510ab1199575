"""Every private attribute of Keras that this package relies on.

Each function says which Keras behaviour it stands on, so that a new release
that changes one has a single place to be mended.
"""

import contextlib
import functools
import inspect
import math
import re
import tempfile

import keras
from keras import ops
from keras import tree
from keras.dtype_policies import DTypePolicyMap
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.callbacks.monitor_callback import MonitorCallback
from keras.src.layers.layer import CallSpec
from keras.src.models.functional import Functional
from keras.src.models.functional import functional_like_constructor
from keras.src.quantizers.utils import should_quantize_layer
from keras.src.saving import serialization_lib
from keras.src.utils import io_utils
from keras.src.utils import python_utils
from keras.src.utils.naming import to_snake_case

__all__ = ["Functional", "functional_like_constructor"]


def infers_shapes():
    """Whether a call only serves to find shapes, and its values mean nothing.

    Keras has a public name for the shapes alone, not for asking.
    """
    return backend.in_symbolic_scope()


def mask_of(tensor):
    """The mask that layers of a model handed on with a tensor, or `None`.

    Keras' losses and metrics leave out what it masks.
    """
    return backend.get_keras_mask(tensor)


def set_mask(tensor, mask):
    """Gives a tensor a mask, as layers and Keras' own losses do."""
    backend.set_keras_mask(tensor, mask)


def config_of(layer):
    """The config of a layer from which it gets the dtypes that it has.

    A `DTypePolicyMap` finds them by paths, and in a copy these are others.
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


def adopt_call_signature(wrapper, layer):
    """Lets a wrapper be called exactly as the layer it wraps.

    Keras reads the names of the arguments of `call` once, in `__init__`, to
    hand over masks, the training flag and shapes.
    """
    for name in (
        "_call_signature",
        "call_signature_parameters",
        "_call_has_training_arg",
        "_call_has_mask_arg",
        "_call_has_context_arg",
    ):
        setattr(wrapper, name, getattr(layer, name))


def build_for_call(layer, args, kwargs):
    """Builds a layer by the shapes of a call, as the call itself would.

    One without a `build` of its own is called: when it is loaded Keras takes
    it for built, though nothing within it is.
    """
    if not builds_itself(layer):
        layer.built = False
    context = layer._call_context_args
    layer._maybe_build(
        CallSpec(layer._call_signature, context, args, dict(kwargs))
    )


# Marks a `build` that Keras need not call with the shapes of every argument.
default = python_utils.default


def build_by_shapes(model, input_shape):
    """Builds the layers of a model as a call on such inputs would.

    Keras' own `Model.build` marks a subclassed model as built and leaves its
    layers to the first call, which may be in a step that is being traced.
    """

    def symbolic(shape):
        return keras.KerasTensor(shape)

    inputs = tree.map_shape_structure(symbolic, input_shape)
    backend.compute_output_spec(model.call, inputs)


def is_deferred(variable):
    """Whether a variable waits for its first value (stateless building)."""
    return variable._value is None


@contextlib.contextmanager
def eager_scope():
    """Leaves a graph that is being traced, so that values can be read."""
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


def first_value(variable):
    """The current or, where it is deferred, the coming value as an array."""
    with eager_scope():
        if is_deferred(variable):
            make = variable._initializer
            value = make(variable._shape, dtype=variable._dtype)
        else:
            value = variable.value
        return ops.convert_to_numpy(value)


def set_first_value(variable, value):
    """Gives a variable its first value during a lazy build.

    An `assign` there would become an operation of the traced graph and be
    lost; so a deferred variable gets another initializer and a living one is
    assigned outside the graph.
    """
    if is_deferred(variable):
        variable._initializer = lambda shape, dtype=None: ops.convert_to_tensor(
            value, dtype=dtype
        )
        return
    with eager_scope():
        variable.assign(value)


@contextlib.contextmanager
def unlocked(layer):
    """Lets a built layer get another weight."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def sublayers(layer):
    """A layer and all layers within it, outermost first."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def inner_layers(layer):
    """The layers directly within a layer."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def quantized_by(model, filters):
    """The layers that `model.quantize(filters=filters)` would change."""
    return [
        layer
        for layer in sublayers(model)[1:]
        if not layer._layers and should_quantize_layer(layer, filters)
    ]


def stored_weight(layer, name):
    """The variable behind a weight that quantization packs or LoRA adds to.

    Keras then gives `layer.kernel` as a tensor.
    """
    value = getattr(layer, name)
    if isinstance(value, keras.Variable):
        return value
    quantized = getattr(layer, f"quantized_{name}", None)
    return getattr(layer, f"_{name}", quantized)


def own_trained(layer):
    """Weights of a layer, not of those within, that it trains if not frozen."""
    return list(layer._trainable_variables)


def _own_variables(layer):
    """Variables of a layer without those of layers within, by their names.

    Names of which there are several are numbered; seeds come last.
    """
    variables = list(layer._trainable_variables)
    variables += layer._non_trainable_variables
    variables += [g.state for g in layer._seed_generators]
    named = {}
    for variable in {id(v): v for v in variables}.values():
        same = sum(name == variable.name for name, _ in named)
        named[variable.name, same] = variable
    return named


def paired_variables(model, other):
    """Pairs the variables of two layers or models of one architecture.

    Each is found by its place: the layer that owns it and its name there. The
    order of `variables` says nothing: that of a layer quantized in place is
    not that of the same layer made from its config, and LoRA moves kernels
    to the end. Where a layer's variables have other names (Keras makes up
    names for those that have none), they go by their order.

    Args:
        model: A built Keras layer or model.
        other: Another of the same architecture.

    Returns:
        List of pairs of variables, each variable once.

    Raises:
        ValueError: If the two do not hold the same variables.
    """
    pairs = {}
    layers, others = sublayers(model), sublayers(other)
    fits = len(layers) == len(others)
    for mine, theirs in zip(layers, others):
        mine, theirs = _own_variables(mine), _own_variables(theirs)
        fits = fits and len(mine) == len(theirs)
        keys = theirs if mine.keys() == theirs.keys() else None
        for (key, variable), by_order in zip(mine.items(), theirs.values()):
            partner = by_order if keys is None else keys[key]
            fits = fits and _same_shape(partner, variable)
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


def inner_names(layer):
    """Pairs of each layer directly within, and a name that is always its own.

    Those of a model are saved with it. A layer that makes others in its
    constructor gives them names with numbers that Keras counts through a
    session (`dense_17`); here they count the layers within (`dense_1`).
    """
    children = list(layer._layers)
    if isinstance(layer, (Functional, keras.Sequential)):
        return [(child, child.name) for child in children]
    pairs, counts = [], {}
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


def adapted_layers(layer):
    """Layers within, itself included, that `adapt` may have given a state.

    Normalization, TextVectorization, StringLookup and the like hold it beside
    their weights.
    """
    return [part for part in sublayers(layer) if _has_adapted_state(part)]


class _View:
    """An object with some of its attributes replaced, of the same class."""

    def __init__(self, of, **replaced):
        self.__dict__.update(replaced, _of=of)

    def __getattr__(self, name):
        return getattr(self._of, name)

    @property
    def __class__(self):
        # `isinstance` asks for it, and Keras for its name.
        return self.__dict__.get("kind", type(self._of))


def summary(model, hidden, kind, **kwargs):
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


def copy_adapted_state(layer, copy):
    """Takes over what `adapt` gave to all layers within a layer."""
    copies = parts_by_way(copy)
    for way, part in parts_by_way(layer).items():
        copy_own_adapted_state(part, copies[way])


def copy_own_adapted_state(layer, copy):
    """Takes over what `adapt` or a vocabulary gave to a preprocessing layer."""
    if not _has_adapted_state(layer):
        return
    stored = {}
    layer.save_own_variables(stored)
    stored = {k: ops.convert_to_numpy(v) for k, v in stored.items()}
    copy.load_own_variables(stored)
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)


def builds_itself(layer):
    """Whether a layer has a `build` of its own, not only a `call`."""
    return not python_utils.is_default(type(layer).build)


def build_as_called(copy, layer):
    """Builds a copy as the layer was by its first call in a graph.

    Returns:
        Whether there is such a call.
    """
    if not layer._inbound_nodes:
        return False
    arguments = layer._inbound_nodes[0].arguments
    with copy._open_name_scope():
        build_for_call(copy, arguments.args, arguments.kwargs)
    return True


@contextlib.contextmanager
def trusting():
    """Lets objects be rebuilt that hold Python code, such as `Lambda`.

    Keras refuses them, as their code may come from a file; here it does not.
    """
    with serialization_lib.SafeModeScope(safe_mode=False):
        yield


def refuse_legacy_config(obj):
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


class RefusesLegacyFiles:
    """A model that is not written to a file that Keras cannot read."""

    def save(self, filepath, *args, **kwargs):
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


def parts_by_way(layer, through=None):
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


def own_variables(layer):
    """The weights of a layer without those within, by attribute or name."""
    names = {}
    for name, value in sorted(vars(layer).items()):
        if isinstance(value, keras.Variable):
            names.setdefault(id(value), name)
    found = {}
    for v in layer._trainable_variables + layer._non_trainable_variables:
        name = names.get(id(v), v.name)
        count = sum(key.split("#")[0] == name for key in found)
        found[f"{name}#{count}" if count else name] = v
    return found


def set_trainable(layer, trainable):
    """Sets the flag of a layer alone, not of what is within.

    The public setter sets those too, but on TensorFlow does nothing at all
    where the flag of the layer has that value already.
    """
    layer._trainable = trainable


def _created_trainable(layer):
    """Names and weights of a layer that are trained unless frozen."""
    trained = {id(v) for v in layer._trainable_variables}
    return [(n, v) for n, v in own_variables(layer).items() if id(v) in trained]


def frozen_parts(model):
    """What is frozen in a model: layers, and weights that a layer trains.

    Returns:
        List of strings: ways to layers, and to weights after a colon.
    """
    found = []
    for way, part in parts_by_way(model).items():
        place = "/".join(way)
        if not part.trainable:
            found.append(place)
        frozen = [n for n, v in _created_trainable(part) if not v.trainable]
        found += [f"{place}:{name}" for name in frozen]
    return found


def freeze_parts(model, places):
    """Freezes what `frozen_parts` listed, and nothing else."""
    for way, part in parts_by_way(model).items():
        place = "/".join(way)
        set_trainable(part, place not in places)
        for name, v in _created_trainable(part):
            v.trainable = f"{place}:{name}" not in places


def name_by_layers(model, through):
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


def name_beside(variable, other):
    """Gives a variable a path in the layer of another."""
    above = other.path.rpartition("/")[0]
    variable._path = f"{above}/{variable.name}" if above else variable.name


def ends_of_graph(model):
    """Inputs and outputs of a model, in the structure they were given in."""
    graph = getattr(model, "_functional", None) or model
    return graph._inputs_struct, graph._outputs_struct


def new_input(tensor):
    """Another `keras.Input` like that which a tensor comes from."""
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def rerun(model, convert):
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


def origin(tensor):
    """The operation that made a symbolic tensor, and its input tensors."""
    operation, node, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors


def set_direction(metric, direction):
    """Tells callbacks in mode "auto" whether "up" or "down" is better."""
    metric._direction = direction


def reset_train_function(model):
    """Forgets the traced step, which Keras keeps from one `fit` to the next.

    A new one takes its place, not traced yet, as a running `fit` asks for
    none between epochs.
    """
    if model.train_function is not None:
        model.make_train_function(force=True)


@contextlib.contextmanager
def own_train_step(model):
    """Lets Keras make a train function of a function that equals no other.

    JAX keeps what it traced by the function's hash, and all bound methods
    `model.train_step` are equal: as long as one train function lives, another
    would run its trace, whatever is attached to the model by then.
    """
    step = functools.partial(type(model).train_step, model)
    vars(model)["train_step"] = step
    try:
        yield
    finally:
        del vars(model)["train_step"]


def print_message(message):
    """Prints a line where Keras prints its progress, or logs it there."""
    io_utils.print_msg(message)


def compilation(model):
    """An object that stands for the last `compile` of a model, or `None`."""
    return getattr(model, "_compile_config", None)


def _plain_optimizers(optimizer):
    """The optimizers that hold slots, inside those that scale or share out."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return _plain_optimizers(inner)
    several = getattr(optimizer, "optimizers", None)
    if several is None:
        return [optimizer]
    return [plain for one in several for plain in _plain_optimizers(one)]


# Gradients that Keras sums over micro-batches; they stay dense on purpose.
_NOT_SLOTS = {"_trainable_variables", "_accumulated_gradients"}


def _slot_lists(optimizer):
    """Lists of variables that run parallel to the trainable variables."""
    count = len(optimizer._trainable_variables)
    for name, value in sorted(vars(optimizer).items()):
        if name in _NOT_SLOTS or not isinstance(value, list):
            continue
        if len(value) == count and any(hasattr(v, "assign") for v in value):
            yield name, value


def _slot_initial_value(optimizer, list_name):
    """The first value of the slots of a list: 0 but for Adagrad and Ftrl."""
    if list_name == "_accumulators":
        return getattr(optimizer, "initial_accumulator_value", 0.0)
    return 0.0


def optimizer_slots(optimizer, variables):
    """Finds the optimizer's slots of the shape of each variable.

    Slot names cannot be relied on, but every Keras optimizer keeps its slots
    in lists parallel to `_trainable_variables`.

    Args:
        optimizer: A built Keras optimizer.
        variables: List of trainable variables.

    Returns:
        For each variable a list of pairs `(slot, initial value)`.
    """
    slots = [[] for _ in variables]
    for plain in _plain_optimizers(optimizer):
        places = {id(v): i for i, v in enumerate(plain._trainable_variables)}
        for name, values in _slot_lists(plain):
            initial = _slot_initial_value(plain, name)
            for found, variable in zip(slots, variables):
                place = places.get(id(variable))  # None if it is frozen
                slot = None if place is None else values[place]
                if _same_shape(slot, variable):
                    found.append((slot, initial))
    return slots


def takes_gradient_as_value(variable):
    """Whether an optimizer assigns a "gradient" as it is: scales of float8."""
    return getattr(variable, "overwrite_with_gradient", False)


def _same_shape(slot, variable):
    shape = getattr(slot, "shape", None)
    return shape is not None and tuple(shape) == tuple(variable.shape)


# A weight that is 0 and whose slots are as they began stays so at gradient 0.
_KEEP_ZEROS = {
    getattr(keras.optimizers, name)
    for name in (
        "Adadelta",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "Ftrl",
        "Lamb",
        "Lion",
        "Nadam",
        "RMSprop",
        "SGD",
    )
}


def keeps_zeros(optimizer, variable):
    """Whether a step leaves alone the entries of zero gradient that are 0.

    Others, such as Muon, which mixes entries, are cleared after each step; so
    are optimizers of a user's own.
    """
    if variable.constraint is not None:
        return False
    return all(type(o) in _KEEP_ZEROS for o in _plain_optimizers(optimizer))


def _accumulating(optimizer):
    """The optimizers within that sum gradients over micro-batches."""
    return [
        plain
        for plain in _plain_optimizers(optimizer)
        if plain.gradient_accumulation_steps
    ]


def accumulation_steps(optimizer):
    """Micro-batches in an update of an optimizer, `None` if each is one."""
    steps = [o.gradient_accumulation_steps for o in _accumulating(optimizer)]
    return max(steps, default=None)


def accumulators(optimizer, variables):
    """What an optimizer sums gradients in, over several micro-batches.

    Returns:
        Tuple of their number in an update (`None` if each makes one), the
        variable that counts micro-batches, and a variable of dense sums for
        each of `variables`.
    """
    accumulating = _accumulating(optimizer)
    if not accumulating:
        return None, None, []
    if hasattr(optimizer, "optimizers"):
        raise ValueError(
            "`gradient_accumulation_steps` must be None in the optimizers of "
            f"a MultiOptimizer. Received: optimizer={optimizer.name!r}"
        )
    (plain,) = accumulating
    steps = plain.gradient_accumulation_steps
    places = {id(v): i for i, v in enumerate(plain._trainable_variables)}
    unknown = [v.path for v in variables if id(v) not in places]
    if unknown:
        raise ValueError(
            "The optimizer must know all trainable variables: compile the "
            "model again after layers were frozen or thawed. "
            f"Received: variables {unknown} that it does not know"
        )
    sums = [plain._accumulated_gradients[places[id(v)]] for v in variables]
    return steps, plain._iterations, sums


def updated_metrics(model, values, loss, batch):
    """Logs and new values of the metrics' variables, on JAX."""
    return model._update_metrics_variables(values, loss, *batch)


def _draw_masks(callbacks):
    """Lets TensorBoard draw boolean weights, which it breaks off at."""
    for callback in tree.flatten(callbacks):
        draws = getattr(callback, "write_images", False)
        if draws and isinstance(callback, keras.callbacks.TensorBoard):
            draw = functools.partial(
                type(callback)._log_weight_as_image, callback
            )
            callback._log_weight_as_image = functools.partial(_draw, draw)


def _draw(draw, weight, name, epoch):
    if keras.backend.standardize_dtype(weight.dtype) == "bool":
        weight = ops.cast(weight, "float32")
    draw(weight, name, epoch)


class KeepsState:
    """A model whose weights outlive an exception in JAX's trainer.

    It takes the values out of all variables before the first batch of an
    epoch and can give them back (`synchronize`) only after that batch: should
    the batch fail, every weight and mask would be lost. `evaluate` and
    `predict` do not even try. (Keras' `fit` does.)

    Its masks are weights, of which TensorBoard makes pictures in `fit`.
    """

    def fit(self, *args, **kwargs):
        given = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        callbacks = given.get("callbacks")
        _draw_masks(getattr(callbacks, "callbacks", callbacks) or [])
        return super().fit(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            synchronize(self)

    def predict(self, *args, **kwargs):
        try:
            return super().predict(*args, **kwargs)
        finally:
            synchronize(self)

    def _get_jax_state(self, purge_model_variables=False, **wanted):
        state = super()._get_jax_state(
            purge_model_variables=purge_model_variables, **wanted
        )
        if purge_model_variables:
            names = (name for name in STATE if wanted.get(name))
            self._jax_state = dict(zip(names, state, strict=True))
            self._jax_state_synced = False
        return state


_TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers"


class CompilesAnywhere:
    """A model whose file tells every backend how to compile it.

    On PyTorch `keras.optimizers.SGD(...)` is an object of a class of that
    backend, by whose name Keras saves it: elsewhere its `.keras` file cannot
    be loaded.
    """

    def get_compile_config(self):
        return _of_any_backend(super().get_compile_config())


def _of_any_backend(config):
    """A config in which optimizers go by their public names."""
    if isinstance(config, (list, tuple)):
        return type(config)(_of_any_backend(value) for value in config)
    if not isinstance(config, dict):
        return config
    config = {name: _of_any_backend(value) for name, value in config.items()}
    if str(config.get("module")).startswith(_TORCH_OPTIMIZERS):
        config["module"] = "keras.optimizers"
        config["registered_name"] = None
    return config


class PacksState(KeepsState):
    """A model that hands JAX's steps its state in a form of its own.

    `pack(name, values)` and `unpack(name, values)` turn one part of the state
    of steps that train or test into it and back.
    """

    def _get_jax_state(self, **wanted):
        state = super()._get_jax_state(**wanted)
        if not wanted.get("metrics_variables"):
            return state  # of a step that predicts
        names = [name for name in STATE if wanted.get(name)]
        packed = {n: self.pack(n, v) for n, v in zip(names, state, strict=True)}
        if wanted.get("purge_model_variables"):
            self._jax_state = packed
        return tuple(packed.values())

    def jax_state_sync(self):
        if keras.backend.backend() != "jax":
            return
        held = getattr(self, "_jax_state", None)
        waits = held and not self._jax_state_synced
        if waits and "metrics_variables" in held:
            self._jax_state = {n: self.unpack(n, v) for n, v in held.items()}
        super().jax_state_sync()


# Names of the parts of JAX's state, in their order.
STATE = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


def synchronize(model):
    """Gives variables their values back, which JAX's trainer keeps in `fit`."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


class BuildsMembers:
    """A model whose members are built, metrics included, before a step is.

    JAX's trainer reads all variables before it traces the first step.
    """

    def _symbolic_build(self, iterator=None, data_batch=None):
        if all(_knows_metrics(member) for member in self.members):
            return
        if data_batch is None:
            _, _, batches = next(iter(iterator))
            listed = isinstance(batches, (list, tuple))
            data_batch = batches[0] if listed else next(batches)
        for i, member in enumerate(self.members):
            batch = self.batch_of(i, data_batch, self.runs_on_own_batches)
            member._symbolic_build(data_batch=batch)


def _knows_metrics(model):
    parts = (model._compile_metrics, model._compile_loss)
    return all(part is None or part.built for part in parts)


def compiled_metrics(model):
    """The metric objects that a model was compiled with."""
    names = ("_user_metrics", "_user_weighted_metrics")
    given = [getattr(model._compile_metrics, name, None) for name in names]
    return [m for m in tree.flatten(given) if hasattr(m, "update_state")]


def shared_counters(optimizer):
    """The variables of an optimizer that its members' steps change alike."""
    return [
        variable
        for plain in _plain_optimizers(optimizer)
        for variable in (plain._iterations, plain._learning_rate)
        if hasattr(variable, "assign")
    ]


def learning_rate_schedule(optimizer):
    """The schedule of an optimizer's rate; `None` if the rate is a number."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(inner, "_learning_rate", None)
    return rate if callable(rate) else None


def loss_scale(optimizer):
    """The factor on the loss and so on the gradients, or `None`."""
    scale = getattr(optimizer, "dynamic_scale", None)
    if scale is not None:
        return scale
    return optimizer.loss_scale_factor


def compute_loss(model, x, y, y_pred, sample_weight):
    """The training loss, as the trainer of the backend computes it."""
    return model._compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
    )


def compiled_as(model, loss):
    """What Keras would have made of another loss in the same `compile`."""
    own = model._compile_loss
    return type(own)(
        loss, own._user_loss_weights, output_names=own.output_names
    )


def compiled_loss(model):
    """What Keras made of the loss that was given to `compile`."""
    return model._compile_loss


def penalties(model):
    """The sum of a model's losses besides the compiled one."""
    return sum(model._aggregate_additional_loss(one) for one in model.losses)


def track_loss(model, loss, batch_size):
    """Feeds the mean loss that the progress bar shows."""
    model._loss_tracker.update_state(loss, sample_weight=batch_size)


def build_from_batch(model, x):
    """Builds a lazily built model by the shapes of a batch, outside the graph.

    Variables that are made while a step is traced have no value yet that a
    mask could be made from.
    """

    def symbolic(tensor):
        return keras.KerasTensor(tensor.shape, tensor.dtype)

    with eager_scope():
        backend.compute_output_spec(model, tree.map_structure(symbolic, x))


def call_model(model, x):
    """Calls a model in training mode where its `call` knows the mode."""
    if model._call_has_training_arg:
        return model(x, training=True)
    return model(x)


def seed_states(model):
    """State variables of all seed generators, which Keras saves nowhere."""
    held = {id(v) for v in model.variables}
    states = []
    for layer in sublayers(model):
        for generator in getattr(layer, "_seed_generators", []):
            if id(generator.state) not in held:
                held.add(id(generator.state))
                states.append(generator.state)
    return states


def improvement_of(model, monitor, mode):
    """Keras' comparison of a monitored value with the best so far.

    Raises:
        ValueError: If `mode` is "auto" and Keras cannot tell the direction.
    """
    callback = MonitorCallback(monitor, mode)
    callback.set_model(model)
    try:
        callback._set_monitor_op()
    except ValueError as error:
        raise ValueError(
            "`mode` must be 'min' or 'max' for a log that is no metric with a "
            f"direction of its own. Received: mode={mode!r}, "
            f"monitor={monitor!r}"
        ) from error
    return callback._is_improvement


def begin_at_epoch(model, epoch):
    """Lets the running `fit` begin at an epoch, as BackupAndRestore does.

    Keras keeps the number for the next `fit`, unless it is set to `None`.
    """
    model._initial_epoch = epoch


@contextlib.contextmanager
def momentum(layers, value):
    """Another momentum of batch-normalization layers, for a while."""
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = value
    try:
        yield
    finally:
        for layer, old in zip(layers, kept):
            layer.momentum = old


def updated_by_call(model, x, variables):
    """Values that a call in training mode gives variables; none is changed."""
    others = model.non_trainable_variables
    place = {id(v): i for i, v in enumerate(others)}
    _, values = model.stateless_call(
        [v.value for v in model.trainable_variables],
        [v.value for v in others],
        ops.convert_to_tensor(x) if hasattr(x, "shape") else x,
        training=True,
    )
    return [values[place[id(v)]] for v in variables]
