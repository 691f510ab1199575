"""Copies functional models: layers, values, frozen flags, shared layers."""

import json
import typing
from collections.abc import Callable

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.ensembles.members import check_copied_by_config
from keras_freetickets.ensembles.members import revived
from keras_freetickets.ensembles.members import uncompiled
from keras_freetickets.layers.compressed_kernels import CompressesKernels
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.models.sparse_model import FunctionalSparseModel
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.types import Config
from keras_freetickets.types import Layer
from keras_freetickets.types import Model

_PLAIN = (
    keras.Model,
    keras_adapter.Functional,
    keras.Sequential,
    SparseModel,
    FunctionalSparseModel,
)
# Methods that a class may define and still be described by its layers alone.
_CONSTRUCTION = {
    "from_config",
    "get_config",
    "get_build_config",
    "build_from_config",
}


def _own_behaviour(model):
    """Names of attributes that a model's own classes define."""
    defined: dict[str, typing.Any] = {}
    for cls in type(model).__mro__:
        if cls in _PLAIN:
            break
        defined.update(vars(cls))
    return sorted(
        name
        for name, value in defined.items()
        if name not in _CONSTRUCTION
        and (name == "__call__" or not name.startswith("__"))
        and (callable(value) or hasattr(value, "__get__"))
    )


def overridden(model: Model) -> list[str]:
    """Sorted names of Keras methods that a functional model overrides.

    They are overridden by its class, or by a function that was assigned to
    the instance.
    """
    changed = [n for n in _own_behaviour(model) if hasattr(keras.Model, n)]
    return sorted({*changed, *_assigned(model)})


# Methods that Keras calls and that may be assigned to an instance. (`quantize`
# and `build` are assigned to each instance by Keras itself.)
_ASSIGNABLE = (
    "call",
    "compute_loss",
    "compute_metrics",
    "predict_step",
    "test_step",
    "train_step",
)


def _assigned(layer):
    """Names of methods that were assigned to a layer or model instance."""
    return [name for name in _ASSIGNABLE if name in vars(layer)]


def overridden_outputs(model: Model) -> list[str]:
    """Names of overridden methods that change what the model returns."""
    return [n for n in overridden(model) if n in ("__call__", "call")]


def added(model: Model) -> list[str]:
    """Names of public methods and properties that a model's class adds."""
    return [
        name
        for name in _own_behaviour(model)
        if not name.startswith("_") and not hasattr(keras.Model, name)
    ]


def is_graph(layer: Layer) -> bool:
    """Whether a layer is a model that is described by its graph of layers."""
    graph = isinstance(layer, (keras.Sequential, keras_adapter.Functional))
    return graph and not overridden(layer)


def leaf_layers(model: Model) -> list[Layer]:
    """The layers of the graph and of nested models, each once."""
    leaves: list = []
    for layer in model.layers:
        inner = leaf_layers(layer) if is_graph(layer) else [layer]
        leaves.extend(x for x in inner if not any(x is y for y in leaves))
    return leaves


class _DiffersError(Exception):
    """A copy has different weights from the original layer."""


def _pairs(layer, copy, through=None):
    """Pairs a layer and its sublayers with their copies.

    Raises:
        _DiffersError: If the names of their weights differ.
    """
    pairs = keras_adapter.paired_layers(layer, copy, through)
    for way, both in pairs.items():
        names = [
            [] if one is None else list(keras_adapter.own_variables(one))
            for one in both
        ]
        if set(names[0]) != set(names[1]):
            place = "/".join(way) or "the layer itself"
            raise _DiffersError(
                f"its copy has different weights: {names[1]} instead of "
                f"{names[0]} in {place}"
            )
    return [both for both in pairs.values() if None not in both]


def copy_values(part: Layer, copy: Layer) -> None:
    """Copies values and frozen flags of a layer's own weights.

    Args:
        part: A built layer.
        copy: A built layer with weights of the same names. Weights that only
            one of them has stay as they are.
    """
    keras_adapter.set_trainable(copy, part.trainable)
    theirs = keras_adapter.own_variables(copy)
    for name, variable in keras_adapter.own_variables(part).items():
        if name not in theirs:
            continue
        # As NumPy, because JAX donates the arrays of a model in training.
        theirs[name].assign(ops.convert_to_numpy(variable.value))
        theirs[name].trainable = variable.trainable
    keras_adapter.copy_own_adapted_state(part, copy)


def copy_state(
    layer: Layer, copy: Layer, through: type | None = None
) -> list[tuple[Layer, Layer]]:
    """Copies the values and frozen flags of a layer and its sublayers.

    Args:
        layer: A layer or model.
        copy: A layer or model of the same structure.
        through: As for `keras_adapter.paired_layers`.

    Returns:
        List of pairs: the layer and each sublayer, with its copy.
    """
    pairs = _pairs(layer, copy, through)
    for part, other in pairs:
        copy_values(part, other)
    return pairs


def _own_classes(model):
    """Custom classes in a model, by their registered names."""
    found: dict[str, set] = {}
    for part in keras_adapter.sublayers(model):
        name = keras.saving.get_registered_name(type(part))
        found.setdefault(name, set()).add(type(part))
    return {
        n: classes.pop() for n, classes in found.items() if len(classes) == 1
    }


def _build_from_config(subject, copy, placed):
    config = subject.get_build_config()
    own = keras_adapter.builds_itself(subject)
    if own and subject.built and config and not copy.built:
        copy.build_from_config(config)


def _build_as_called(subject, copy, placed):
    if isinstance(copy, Sparse):
        keras_adapter.build_as_called(copy.layer, placed)
        copy.build()
    else:
        keras_adapter.build_as_called(copy, placed)


def _cannot_copy(layer, reason):
    # Keras' messages start with whole configs; the last line has the reason.
    said = repr(reason) if isinstance(reason, KeyError) else str(reason)
    last = said.strip().splitlines()[-1:] or [type(reason).__name__]
    return (
        f"Layer '{layer.name}' of class {type(layer).__name__} cannot be "
        f"copied, because its config does not rebuild it ({last[0]}). Correct "
        "`get_config` and `build` of its class, and register the classes and "
        "functions that it uses with "
        "`keras.saving.register_keras_serializable`. If the layer is part of "
        "a model with its own class, such as one of KerasHub, use that model "
        "as one layer, `keras.Model(inputs, head(model(inputs)))`."
    )


def _describes_itself(model):
    """Whether a functional model is rebuilt from its class's arguments."""
    graph = isinstance(model, keras_adapter.Functional)
    return graph and not keras_adapter.functional_like_constructor(type(model))


def _without_sparse(config):
    """A config with every `Sparse` replaced by the layer that it wraps."""
    if isinstance(config, dict):
        if config.get("registered_name") == "keras_freetickets>Sparse":
            return _without_sparse(config["config"]["layer"])
        return {key: _without_sparse(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_without_sparse(value) for value in config)
    return config


class _Rerun:
    """Rebuilds the graph of a model with new inputs and new layers.

    Args:
        model: A built Functional or Sequential model; nested models are
            rebuilt too.
        leaf: Callable from a layer of the graph to the new layer.
        plain: Boolean, whether nested models become plain Keras models.
        make_input: Callable from an input of the graph to a new one.

    Attributes:
        ends: Inputs and outputs of the graph.
    """

    def __init__(
        self, model, leaf, plain=False, make_input=keras_adapter.new_input
    ):
        self._leaf = leaf
        self._plain = plain
        self._make_input = make_input
        self._made = {}
        self.ends = self._rerun(model)

    def _rerun(self, model):
        return keras_adapter.rerun(model, self._graph_layer, self._make_input)

    def _graph_layer(self, layer):
        if id(layer) not in self._made:
            self._made[id(layer)] = self._other(layer)
        return self._made[id(layer)]

    def _other(self, layer):
        if not isinstance(layer, keras.Layer):
            # An operation of keras.ops.
            return type(layer).from_config(layer.get_config())
        if not is_graph(layer):
            return self._leaf(layer)
        with keras.name_scope(layer.name):
            if isinstance(layer, keras.Sequential):
                other = self._sequential(layer)
            else:
                other = self._functional(layer)
        keras_adapter.set_trainable(other, layer.trainable)
        return other

    def _functional(self, model):
        ends = self._rerun(model)
        sparse = isinstance(model, SparseModel) and not self._plain
        cls = FunctionalSparseModel if sparse else keras.Model
        return cls(*ends, name=model.name)

    def _sequential(self, model):
        # A Sequential of several inputs does not have these tensors.
        tensors = getattr(model, "inputs", [])[:1]
        inputs = [self._make_input(tensor) for tensor in tensors]
        layers = [self._graph_layer(layer) for layer in model.layers]
        return keras.Sequential([*inputs, *layers], name=model.name)


class GraphCopy:
    """A copy of a functional or sequential model, layer by layer.

    Layers are rebuilt from their configs. They are built and receive their
    values before the graph is called.

    Args:
        model: A built Functional or Sequential model.
        place: Callable `(layer, copy) -> layer` that returns the layer to use
            in the copied graph.
        strip: Boolean, whether to replace every `Sparse` by its inner layer.
        make_input: Callable from an input of the graph to a new one.

    Attributes:
        ends: Inputs and outputs of the copy.
        source: Config of the model class, if only that can rebuild the
            layers, or `None`.

    Raises:
        ValueError: If a layer cannot be rebuilt, or layers share weights.
    """

    def __init__(
        self,
        model: Model,
        place: Callable | None = None,
        strip: bool = False,
        make_input: Callable = keras_adapter.new_input,
    ) -> None:
        self._model = model
        self._place = place or (lambda layer, copy: copy)
        self._strip = strip
        self._through = Sparse if strip else None
        self._pairs: list[tuple] = []
        self._second: dict[int, Layer] | None = None
        self.source = None
        scope = keras.saving.custom_object_scope(_own_classes(model))
        with scope, keras_adapter.trusting():
            self.ends = _Rerun(model, self._placed, strip, make_input).ends
        self._check_shared()

    def _placed(self, layer):
        return self._place(layer, self._copy(layer))

    def _copy(self, layer):
        """A copy of a layer with the same values, built but not called."""
        if self._strip and isinstance(layer, CompressesKernels):
            return layer.to_dense()
        wrapped = self._strip and isinstance(layer, Sparse)
        subject = layer.layer if wrapped else layer
        check_copied_by_config(subject)
        self._check_within(subject)
        copy = self._rebuilt(subject, layer)
        pairs = copy_state(subject, copy, self._through)
        self._pairs += [(layer, *pair) for pair in pairs]
        return copy

    def _check_within(self, layer):
        """Raises for what the config of a layer does not contain."""
        for part in keras_adapter.sublayers(layer):
            if _assigned(part):
                raise ValueError(
                    f"Layer '{part.name}' has a method that was assigned to "
                    "the instance and that a copy would lose: define it in a "
                    "layer class. "
                    f"Received: {_assigned(part)} of layer '{part.name}'"
                )
            if self._strip and isinstance(part, SparseModel):
                raise ValueError(
                    f"Layer '{layer.name}' contains the SparseModel "
                    f"'{part.name}', which `strip` cannot replace: strip that "
                    "model first, and build the layer around the result. "
                    f"Received: layer '{layer.name}' of class "
                    f"{type(layer).__name__}"
                )

    def _rebuilt(self, layer, placed):
        reasons = []
        for build in (_build_from_config, _build_as_called):
            try:
                copy = self._from_config(layer)
                build(layer, copy, placed)
                _pairs(layer, copy, self._through)
                return copy
            except Exception as error:  # custom classes may raise anything
                reasons.append(error)
        copy = self._of_second_model(layer, placed)
        if copy is None:
            raise ValueError(_cannot_copy(layer, reasons[0])) from reasons[0]
        return copy

    def _from_config(self, layer):
        config = keras_adapter.config_of(layer)
        if self._strip:
            config = _without_sparse(config)
        with keras.name_scope(layer.name):
            return type(layer).from_config(config)

    def _of_second_model(self, layer, placed):
        """The corresponding layer of a second instance of the model's class.

        Some layers of KerasHub cannot be rebuilt from their own configs, but
        the models that contain them can.
        """
        if self._second is None:
            self._second = self._layers_of_second_model()
        found = self._second.get(id(placed))
        inner = layer.layer if isinstance(layer, Sparse) else layer
        if type(found) is not type(inner):
            return None
        return (
            found
            if inner is layer
            else wrapped_sparse(found, layer.own_config())
        )

    def _layers_of_second_model(self):
        """Maps the id of each leaf layer to that of a second model."""
        try:
            source = _source(self._model)
            second = leaf_layers(revived(source)) if source else None
        except Exception:  # the class cannot be rebuilt
            return {}
        self.source = source
        if second is None:
            return {}
        # With different lengths, layers without a partner are left out.
        leaves = leaf_layers(self._model)
        return {
            id(leaf): other for leaf, other in zip(leaves, second, strict=False)
        }

    def _check_shared(self):
        """Raises for layers that share weights, because copies would not."""
        copies: dict[int, tuple] = {}
        for layer, part, copy in self._pairs:
            theirs = keras_adapter.own_variables(copy)
            for name, variable in keras_adapter.own_variables(part).items():
                found = copies.setdefault(id(variable), (layer, theirs[name]))
                if found[1] is not theirs[name]:
                    raise ValueError(
                        f"Layers '{found[0].name}' and '{layer.name}' share "
                        f"the weight '{variable.path}', but in a copy each "
                        "would have its own, and Keras cannot load a saved "
                        "model with shared weights. Call the same layer "
                        "several times instead."
                    )


def _source(model):
    """The config of a model that only its class can rebuild, or `None`."""
    if isinstance(model, SparseModelOfClass):
        return json.loads(model.source)
    nested = [part for part in model.layers if is_graph(part)]
    if _describes_itself(model) or any(_source(part) for part in nested):
        return uncompiled(model)
    return None


def wrapped_sparse(layer: Layer, config: Config) -> Sparse:
    """Wraps a layer in a built `Sparse` with the given `own_config`.

    Args:
        layer: A built layer.
        config: What `Sparse.own_config` returned.
    """
    config = dict(config)
    initializer = keras.saving.deserialize_keras_object(
        config.pop("mask_initializer")
    )
    sparse = Sparse(layer, mask_initializer=initializer, **config)
    sparse.build()
    return sparse


@keras.saving.register_keras_serializable(package="keras_freetickets")
class SparseModelOfClass(FunctionalSparseModel):
    """A sparse copy of a model whose layers only its class can rebuild.

    Some layers of KerasHub cannot be rebuilt from their configs. So this model
    is saved as the config of the original class, with a list of the layers
    that are sparse.

    Args:
        *args: As for `keras.Model`: inputs and outputs.
        **kwargs: As for `keras.Model`.

    Attributes:
        source: Config of the original model, as JSON.
    """

    source: str = ""

    def get_config(self) -> Config:
        keras_adapter.refuse_legacy_config(self)
        sparse = [
            [i, leaf.own_config()]
            for i, leaf in enumerate(leaf_layers(self))
            if isinstance(leaf, Sparse)
        ]
        return {
            "name": self.name,
            "source": json.loads(self.source),
            "sparse": sparse,
            "frozen": keras_adapter.frozen_parts(self),
        }

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: dict | None = None
    ) -> typing.Any:
        with keras.saving.custom_object_scope(custom_objects or {}):
            source = revived(config["source"])
            leaves = leaf_layers(source)
            places = {id(leaves[i]): sparse for i, sparse in config["sparse"]}

            def leaf(layer):
                if id(layer) not in places:
                    return layer
                return wrapped_sparse(layer, places[id(layer)])

            model = cls(*_Rerun(source, leaf).ends, name=config["name"])
        model.source = json.dumps(config["source"])
        keras_adapter.freeze_parts(model, set(config["frozen"]))
        return model


def copied(
    model: Model,
    cls: type,
    place: Callable | None = None,
    make_input: Callable = keras_adapter.new_input,
) -> Model:
    """A copy of a functional model with the class `cls`; see `GraphCopy`."""
    if _assigned(model):
        raise ValueError(
            f"Model '{model.name}' has methods that were assigned to the "
            "instance and that a copy would lose: define them in a class "
            "derived from keras_freetickets.SparseModel. "
            f"Received: {_assigned(model)} of model '{model.name}'"
        )
    graph = GraphCopy(model, place, make_input=make_input)
    if graph.source is not None:
        cls = SparseModelOfClass
    made = cls(*graph.ends, name=model.name)
    if graph.source is not None:
        leaves = leaf_layers(made)
        if any(isinstance(leaf, CompressesKernels) for leaf in leaves):
            raise ValueError(
                "Layers that only a model's own class can rebuild are not "
                "compressed: use storage='mask'. Received: "
                f"model={model.name!r} of type {type(model).__name__}"
            )
        made.source = json.dumps(graph.source)
    keras_adapter.set_trainable(made, model.trainable)
    return made


def stripped(model: Model) -> Model:
    """A plain Keras copy of a sparse model, without any `Sparse`."""
    if isinstance(model, SparseModelOfClass):
        plain = revived(json.loads(model.source))
        for layer, other in zip(
            leaf_layers(model), leaf_layers(plain), strict=True
        ):
            wrapped = isinstance(layer, Sparse)
            copy_state(layer.layer if wrapped else layer, other, Sparse)
    else:
        ends = GraphCopy(model, strip=True).ends
        plain = keras.Model(*ends, name=model.name)
    keras_adapter.set_trainable(plain, model.trainable)
    return plain
