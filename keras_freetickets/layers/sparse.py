"""The wrapper that owns a mask for each masked kernel of a layer."""

import dataclasses
import math
import random
import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import is_integer
from keras_freetickets.arguments import is_real
from keras_freetickets.layers.guard import guard
from keras_freetickets.layers.kernels import MasksKernels
from keras_freetickets.layers.kernels import find_kernels
from keras_freetickets.layers.quantization import check_float_kernels
from keras_freetickets.layers.quantization import keep_float_kernel
from keras_freetickets.topology import mask_initializers
from keras_freetickets.topology.distributions import active_count
from keras_freetickets.types import Config
from keras_freetickets.types import Layer


@dataclasses.dataclass
class MaskedKernel:
    """A kernel and its mask.

    Attributes:
        name: Path within the model, for reports.
        kernel: The trainable variable, zero outside the mask.
        mask: Boolean variable of the kernel's shape.
        state: Dict of variables, a method's state for each connection.
        active: Integer, how many entries the mask keeps: the number when it
            was made, or when a method was last attached.
        initial: Integer, how many entries the mask kept when it was made.
    """

    name: str
    kernel: typing.Any
    mask: typing.Any
    state: dict
    active: int
    initial: int

    # Unlike `CompressedKernel`, it has a variable for its mask.
    compressed = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        return tuple(self.kernel.shape)

    @property
    def size(self) -> int:
        """Entries of the kernel, active or not."""
        return math.prod(self.shape)

    def count(self) -> int:
        """The number of weights that are active now."""
        return int(np.sum(self.mask_array()))

    def mask_array(self) -> np.ndarray:
        """The mask as a boolean array."""
        return ops.convert_to_numpy(self.mask.value)

    def kernel_array(self) -> np.ndarray:
        """The kernel as an array."""
        return ops.convert_to_numpy(self.kernel.value)


# Not delegated, because Keras would save a layer's assets, and adapt it,
# twice.
_NOT_DELEGATED = {"adapt", "finalize_state", "load_assets", "save_assets"}
# Arguments of the wrapper; a layer may have attributes of the same names.
_OWN = {
    "kernels",
    "layer",
    "mask_initializer",
    "note",
    "seed",
    "sparsity",
    "state",
}


def _check_sparsity(sparsity):
    values = sparsity if isinstance(sparsity, (list, tuple)) else [sparsity]
    for value in values:
        number = value is None or is_real(value)
        if not number or (value is not None and not 0.0 <= value < 1.0):
            raise ValueError(
                "`sparsity` must be in [0, 1): the fraction of weights to "
                f"remove. Received: sparsity={sparsity}"
            )


def _check_arguments(layer, kernels, seed, state):
    if not isinstance(layer, keras.Layer):
        raise ValueError(
            f"`layer` must be a Keras layer. Received: layer={layer}"
        )
    names = () if kernels is None else kernels
    listed = isinstance(names, (tuple, list))
    if not listed or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "`kernels` must be a tuple of names of the layer's attributes, "
            f'such as ("kernel",), or None. Received: kernels={kernels}'
        )
    if seed is not None and (not is_integer(seed) or seed < 0):
        raise ValueError(
            "`seed` must be a non-negative integer or None. "
            f"Received: seed={seed}"
        )
    if not isinstance(state, (dict, type(None))):
        raise ValueError(
            "`state` must be a dict from names to dtypes, or None. "
            f"Received: state={state}"
        )


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Sparse(MasksKernels, keras.layers.Wrapper):
    """Keeps kernels of a layer sparse, with a boolean mask for each.

    The wrapper has the layer's name and is called like the layer. You can
    read and set the layer's public attributes and methods on the wrapper:
    `units`, `kernel`, `activation`, `filters`. The layer itself is `layer`.

    Kernels are zero outside their masks, so the forward pass is that of the
    plain layer; a `SparseModel` keeps them zero during training. Biases,
    normalization, embeddings and depthwise kernels have no mask unless
    `kernels` names them.

    Args:
        layer: A Keras layer, built or not. A custom layer names the weights
            to mask in an attribute, `sparse_kernels = ("w_in", "w_out")`.
        sparsity: Float in [0, 1), the fraction of each kernel's weights to
            remove, or a list with one for each kernel. `None` for 0.
        kernels: Tuple of attribute names of the weights to mask. `None` for
            the layer's `sparse_kernels`, or else its kernels, recurrent
            kernels and pointwise kernels.
        mask_initializer: `"random"`, `"magnitude"` or a callable
            `(kernel, count, generator) -> mask` of NumPy arrays, with
            exactly `count` true entries. If it has a method
            `active_count(shape, density)`, that decides `count`. Masks are
            always saved; a callable only if it is registered with Keras.
        seed: Non-negative integer for the random mask. `None` draws one now.
        state: Dict from name to dtype of additional state for each
            connection, as added by `add_state`.
        note: String for `keras_freetickets.sparsity_summary`, such as why the
            kernels are not compressed, or `None`.
        **kwargs: `name`, `dtype`, `trainable` of the wrapper. The name
            defaults to the layer's.

    Raises:
        ValueError: If `sparsity` is outside [0, 1), another argument has the
            wrong type, or the layer, once built, has nothing to mask, is
            quantized to integers or has LoRA.

    Example:

    ```python
    layer = keras_freetickets.layers.Sparse(
        keras.layers.Dense(100), sparsity=0.9
    )
    layer(keras.ops.ones((8, 300)))
    layer.masked_kernels[0].mask  # (300, 100), 3,000 entries are true
    ```

    Reference:
        Masks have an exact count as in google-research/rigl and
        google-research/jaxpruner.
    """

    def __init__(
        self,
        layer: Layer,
        sparsity: typing.Any = None,
        kernels: Sequence[str] | None = None,
        mask_initializer: str | Callable | None = "random",
        seed: int | None = None,
        state: dict | None = None,
        note: str | None = None,
        **kwargs: typing.Any,
    ) -> None:
        _check_arguments(layer, kernels, seed, state)
        _check_sparsity(sparsity)
        mask_initializers.get(mask_initializer)
        kwargs.setdefault("name", getattr(layer, "name", None))
        kwargs.setdefault("trainable", getattr(layer, "trainable", True))
        super().__init__(layer, **kwargs)
        if not self.trainable and layer.trainable:
            layer.trainable = False
        self.sparsity = tree.map_structure(_plain, sparsity)
        if kernels is None:
            # Set on the instance and not its class: a loaded layer lacks it.
            kernels = vars(layer).get("sparse_kernels")
        self.kernels = None if kernels is None else tuple(kernels)
        self.mask_initializer = mask_initializer
        self.seed = _draw_seed() if seed is None else seed
        self.state = dict(state or {})
        self.note = note
        self.supports_masking = layer.supports_masking
        self._masked: list[MaskedKernel] = []
        keras_adapter.adopt_call_signature(self, layer)

    def __getattr__(self, name):
        # Called if the wrapper has no such attribute, or its property raised.
        # `dir` does not list the layer's attributes, because Keras saves what
        # it lists.
        if self._delegates(name):
            return getattr(self.layer, name)
        # The default behavior; PyTorch's modules define their own method.
        inherited: typing.Any = getattr(
            super(), "__getattr__", super().__getattribute__
        )
        return inherited(name)

    def __setattr__(self, name, value):
        if self._delegates(name) and hasattr(self.layer, name):
            setattr(self.layer, name, value)
        else:
            super().__setattr__(name, value)

    def _delegates(self, name):
        """Whether to look up an attribute on the layer."""
        hidden = name.startswith("_") or name in _NOT_DELEGATED | _OWN
        held = hidden or name in self.__dict__ or hasattr(type(self), name)
        return not held and hasattr(self, "layer")

    def __repr__(self):
        kind = type(self.layer).__name__
        return f"<Sparse({kind}) name={self.name}, built={self.built}>"

    def count_params(self) -> int:
        """Number of the layer's weights, excluding masks.

        Returns:
            Integer.

        Raises:
            ValueError: If the layer is not built.
        """
        return self.layer.count_params()

    def quantize(
        self,
        mode: str | None = None,
        config: typing.Any = None,
        **kwargs: typing.Any,
    ) -> None:
        """Calls the layer's `quantize`; the kernels stay floats.

        Args:
            mode: `"float8"`.
            config: As for `keras.Layer.quantize`.
            **kwargs: As for `keras.Layer.quantize`.

        Raises:
            ValueError: If the mode would replace a masked kernel by integers.
        """
        self.layer.quantize(mode, config=config, **kwargs)

    def __call__(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        if not self.built:
            shaped = tree.map_structure(_as_tensor, (args, kwargs))
            keras_adapter.build_for_call(self.layer, *shaped)
        return super().__call__(*args, **kwargs)

    def build(self, input_shape: typing.Any = None) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
        check_float_kernels(self.layer, self.kernels)
        places = find_kernels(self.layer, self.kernels)
        if not places:
            raise ValueError(
                f"Layer '{self.name}' has no weight to mask. Received: "
                f"kernels={self.kernels} for a {type(self.layer).__name__}"
            )
        sparsities = self._sparsities(places)
        generator = np.random.default_rng(self.seed)
        self._masked = [
            self._mask(place, sparsity, generator)
            for place, sparsity in zip(places, sparsities, strict=True)
        ]
        for name, dtype in self.state.items():
            self._add_state_variables(name, dtype)
        for place in places:
            keep_float_kernel(place.layer)

    def get_build_config(self) -> typing.Any:
        # A layer without `build` is built by a call of the wrapper.
        if keras_adapter.builds_itself(self.layer):
            return self.layer.get_build_config()
        return None

    def build_from_config(self, config: typing.Any) -> None:
        if not self.layer.built:
            self.layer.build_from_config(config)
        self.build()

    def _sparsities(self, places):
        if not isinstance(self.sparsity, (list, tuple)):
            return [self.sparsity or 0.0] * len(places)
        if len(self.sparsity) != len(places):
            raise ValueError(
                f"`sparsity` must have one value for each kernel of layer "
                f"'{self.name}': {[p.name for p in places]}. "
                f"Received: sparsity={self.sparsity}"
            )
        return [value or 0.0 for value in self.sparsity]

    def _mask(self, place, sparsity, generator):
        value = keras_adapter.first_value(place.variable)
        initializer = mask_initializers.get(self.mask_initializer)
        count = _active_count(initializer, value.shape, 1.0 - sparsity)
        initial = np.asarray(initializer(value, count, generator), bool)
        if initial.shape != value.shape or initial.sum() != count:
            raise ValueError(
                f"`mask_initializer` must return a mask of shape "
                f"{value.shape} with {count} true entries for {place.name} of "
                f"layer '{self.name}'. Received: a mask of shape "
                f"{initial.shape} with {initial.sum()}"
            )
        mask = self._add_mask_like(
            name=place.name.replace("/", "_") + "_mask",
            shape=value.shape,
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                initial, dtype=dtype
            ),
            dtype="bool",
        )
        masked = np.where(initial, value, np.zeros_like(value))
        keras_adapter.set_first_value(place.variable, masked)
        name = f"{self.name}/{place.name}"
        guard(place.variable, name)
        return MaskedKernel(name, place.variable, mask, {}, count, count)

    @property
    def masked_kernels(self) -> list[MaskedKernel]:
        """List of `MaskedKernel`, one for each masked kernel."""
        return list(self._masked)

    def load_own_variables(self, store: typing.Any) -> None:
        masks = [masked.mask for masked in self.masked_kernels]
        noted = sum(len(masked.state) for masked in self.masked_kernels)
        if len(masks) <= len(store) != len(masks) + noted:
            # The state of connections belongs to a run: a file may contain it
            # for another method, or not at all.
            for i, mask in enumerate(masks):
                mask.assign(store[f"{i}"])
        else:
            super().load_own_variables(store)

    def add_state(self, name: str, dtype: str) -> None:
        """Adds a variable of the kernel's shape for each masked kernel.

        It starts at zero and is saved and loaded with the layer.

        Args:
            name: String, the key in `MaskedKernel.state`.
            dtype: String, for example `"int32"`.

        Raises:
            ValueError: If Keras does not know the dtype.
        """
        keras.backend.standardize_dtype(dtype)
        if name in self.state:
            return
        self.state[name] = dtype
        if self.built:
            with keras_adapter.unlocked(self):
                self._add_state_variables(name, dtype)

    def _add_state_variables(self, name, dtype):
        for masked in self._masked:
            masked.state[name] = self._add_mask_like(
                name=f"{masked.name.replace('/', '_')}_{name}",
                shape=masked.mask.shape,
                initializer="zeros",
                dtype=dtype,
            )

    def _add_mask_like(self, name, **kwargs):
        """A weight that is not trained and is equal on all replicas."""
        variable = self.add_weight(
            name=name,
            trainable=False,
            aggregation="only_first_replica",
            **kwargs,
        )
        if self._masked:
            keras_adapter.name_beside(variable, self._masked[0].mask)
        # `tf.train.Checkpoint` saves only attributes.
        setattr(self, f"_{name}", variable)
        return variable

    def call(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        return self.layer(*args, **kwargs)

    def compute_output_spec(
        self, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(
        self, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(
        self, inputs: typing.Any, previous_mask: typing.Any = None
    ) -> typing.Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> Config:
        keras_adapter.refuse_legacy_config(self)
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**self.own_config(), "layer": layer}

    def own_config(self) -> Config:
        """The config as a dict, without the wrapped layer."""
        return {
            **super(keras.layers.Wrapper, self).get_config(),
            "sparsity": self.sparsity,
            "kernels": self.kernels,
            "mask_initializer": _saved(self.mask_initializer),
            "seed": self.seed,
            "state": dict(self.state),
            **({} if self.note is None else {"note": self.note}),
        }

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: dict | None = None
    ) -> typing.Any:
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(
            config.pop("layer"), custom_objects=custom_objects
        )
        config["mask_initializer"] = keras.saving.deserialize_keras_object(
            config["mask_initializer"], custom_objects=custom_objects
        )
        return cls(layer, **config)


def _active_count(initializer, shape, density):
    """The count of a mask; an initializer with a pattern decides it itself."""
    own = getattr(initializer, "active_count", None)
    if own is not None:
        return own(shape, density)
    return active_count(math.prod(shape), density)


def _saved(initializer):
    """What is saved of an initializer; `"random"` if it is not registered."""
    if not callable(initializer):
        return initializer
    # Functions and classes have names, instances do not.
    named = hasattr(initializer, "__name__")
    name = keras.saving.get_registered_name(
        initializer if named else type(initializer)
    )
    if keras.saving.get_registered_object(name) is None:
        return "random"
    return keras.saving.serialize_keras_object(initializer)


def _plain(value):
    return None if value is None else float(value)


def _as_tensor(value):
    is_array = isinstance(value, np.ndarray)
    return ops.convert_to_tensor(value) if is_array else value


def _draw_seed():
    return random.randrange(2**31)  # keras.utils.set_random_seed seeds it
