"""A Keras model that stays sparse while it trains."""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.layers.parameters import CountsParameters
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.layers.sparse import check_quantization
from keras_freetickets.layers.update_state import UpdateState
from keras_freetickets.models import logits
from keras_freetickets.models.trainers import compiled_steps
from keras_freetickets.models.trainers import get_backend
from keras_freetickets.models.trainers import step
from keras_freetickets.topology.methods import Method


def _is_functional_call(args, kwargs):
    return len(args) >= 2 or {"inputs", "outputs"} <= set(kwargs)


def _looks_at_kernels(method):
    """Whether a method begins with what kernels and masks are."""
    hooks = ("begin", "initial_state")
    return method.variable_state or any(
        step.overrides(method, hook) for hook in hooks
    )


def _check_gradients(model, gradients):
    if not model.compiled:
        raise ValueError(
            "The model must be compiled, as its optimizer takes the step: "
            f"call `model.compile(...)` first. Received: model={model.name!r}"
        )
    if model.method is not None and model._is_compiled_anew():
        raise ValueError(
            "A method counts the steps of the optimizer that it was attached "
            "with: after `model.compile(...)` call `model.attach(method)` "
            f"again. Received: model.method={type(model.method).__name__}"
        )
    if len(gradients) != len(model.trainable_variables):
        raise ValueError(
            f"`gradients` must have {len(model.trainable_variables)} entries, "
            "one for each of `model.trainable_variables`. "
            f"Received: {len(gradients)} gradients"
        )


def _make_functional(cls):
    """Puts a class that is given inputs and outputs on FunctionalSparseModel.

    Keras does the same with its own `Model`, for subclasses of which it
    cannot be known beforehand whether their layers form a graph.
    """
    if issubclass(cls, keras_adapter.Functional):
        return
    for base in cls.__bases__:
        if issubclass(base, SparseModel) and base is not SparseModel:
            _make_functional(base)
    cls.__bases__ = tuple(
        FunctionalSparseModel if base is SparseModel else base
        for base in cls.__bases__
    )


@keras.saving.register_keras_serializable(package="keras_freetickets")
class SparseModel(
    CountsParameters,
    keras_adapter.CompilesAnywhere,
    keras_adapter.RefusesLegacyFiles,
    keras_adapter.KeepsState,
    keras.Model,
):
    """A model whose `Sparse` layers keep their masks through training.

    Made by `keras_freetickets.sparsify`, from inputs and outputs as
    `keras.Model`, or by subclassing with `Sparse` layers built by hand. After
    every step a kernel is exactly zero outside its mask, and so are the
    optimizer's slots (they hold their initial value). Without a method the
    masks stay as they are; `attach`, or a callback such as
    `keras_freetickets.callbacks.RigL`, lets them change.

    Args:
        *args: As for `keras.Model`.
        **kwargs: As for `keras.Model`.

    Example:

    ```python
    model = keras_freetickets.sparsify(dense_model, sparsity=0.9)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, callbacks=[keras_freetickets.callbacks.RigL()])
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568 (FreeTickets).
    """

    def __new__(cls, *args, **kwargs):
        if cls is SparseModel and _is_functional_call(args, kwargs):
            return super().__new__(FunctionalSparseModel)
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        if _is_functional_call(args, kwargs):
            _make_functional(type(self))
            FunctionalSparseModel.__init__(self, *args, **kwargs)
            return
        super().__init__(*args, **kwargs)
        self._prepare()

    def _prepare(self):
        self._method = None
        self._attached_to = None
        self._objective = None
        self._softmax = None
        self._deferred = []
        self._compiled_steps = compiled_steps.CompiledSteps()
        self.update_state = UpdateState(name="topology")

    @keras_adapter.default
    def build(self, input_shape):
        if not all(layer.built for layer in self.sparse_layers):
            keras_adapter.build_by_shapes(self, input_shape)
        self.built = True

    @property
    def sparse_layers(self):
        """List of the `Sparse` layers of the model, nested ones included."""
        parts = keras_adapter.sublayers(self)
        return [part for part in parts if isinstance(part, Sparse)]

    @property
    def masked_kernels(self):
        """List of `MaskedKernel`, one for each masked kernel of the model."""
        return [c for layer in self.sparse_layers for c in layer.masked_kernels]

    @property
    def density(self):
        """Share of active weights among the maskable ones, a float."""
        keras_adapter.synchronize(self)
        masked_kernels = self.masked_kernels
        size = sum(masked.size for masked in masked_kernels)
        active = sum(
            int(np.sum(ops.convert_to_numpy(masked.mask.value)))
            for masked in masked_kernels
        )
        return active / size if size else 1.0

    @property
    def method(self):
        """The attached sparse-training method, or `None`."""
        return self._method

    def attach(self, method):
        """Lets `method` update the topology from the next step on.

        Args:
            method: A `keras_freetickets.topology.Method`.

        Raises:
            ValueError: If the model is not compiled, or not built and
                `method` begins with its kernels, or `method` is not a
                `Method`.
            RuntimeError: If Keras' backend is neither TensorFlow nor JAX.

        Example:

        ```python
        model.attach(keras_freetickets.topology.RigL(update_interval=100))
        ```
        """
        get_backend()
        if not isinstance(method, Method):
            raise ValueError(
                "`method` must be a keras_freetickets.topology.Method. "
                f"Received: method={method}"
            )
        if not self.compiled:
            raise ValueError(
                "The model must be compiled before a method is attached: "
                "call `model.compile(...)` first. "
                f"Received: method={type(method).__name__}"
            )
        if not self.built and _looks_at_kernels(method):
            raise ValueError(
                f"The model must be built before {type(method).__name__} is "
                "attached, which looks at its kernels: call it on a batch, or "
                "`model.build(input_shape)`. "
                f"Received: method={type(method).__name__}"
            )
        keras_adapter.synchronize(self)
        with self.scope():
            for layer in self.sparse_layers:
                self._add_connection_state(layer, method)
            self._add_variable_state(method)
        for masked in self.masked_kernels:
            # Loaded masks may have another count than those made here.
            masked.active = int(np.sum(ops.convert_to_numpy(masked.mask.value)))
        method.begin(self.masked_kernels)
        self.project()
        self._method = method
        self._attached_to = self.optimizer
        self.update_state.begin(self.optimizer, method)
        self._choose_step()

    def scope(self):
        """Context in which variables of a run are made: on all replicas.

        Example:

        ```python
        with model.scope():
            model.update_state.add_scalar("count", 0.0)
        ```
        """
        return get_backend().scope(self)

    def _add_connection_state(self, layer, method):
        for name, dtype in method.connection_state.items():
            if name not in layer.state:
                layer.add_state(name, dtype)
                self._begin_connection_state(layer, method, name)

    def _begin_connection_state(self, layer, method, name):
        for masked in layer.masked_kernels:
            mask = ops.convert_to_numpy(masked.mask.value)
            initial = method.initial_state(mask)
            if name in initial:
                masked.state[name].assign(initial[name])

    def restart_connection_state(self):
        """Begins anew what the attached method keeps of each connection.

        That of `DSTEE` are its visits: they begin with the present masks.

        Example:

        ```python
        model.restart_connection_state()
        ```
        """
        if self._method is None:
            return
        keras_adapter.synchronize(self)
        for layer in self.sparse_layers:
            for name in self._method.connection_state:
                self._begin_connection_state(layer, self._method, name)

    def restart_scalar_state(self):
        """Begins anew what the method and the objective keep as numbers.

        Those of `AGENT` are its estimate `tau` and whether there is a
        snapshot; those of MOON's loss its running loss and `alpha`. Callbacks
        call it before the first epoch of a training.

        Example:

        ```python
        model.restart_scalar_state()
        ```
        """
        for part in (self._method, self._objective):
            if part is not None:
                self.update_state.restart_scalars(part.scalar_state)

    def _add_variable_state(self, method):
        for name, initial in method.scalar_state.items():
            self.update_state.add_scalar(name, initial)
        variables = self.trainable_variables
        for name in method.variable_state:
            if self.update_state.add_state(name, variables):
                self.update_state.restart_scalars(method.scalar_state)

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """As `keras.Model.quantize`, of layers that stay trainable.

        Layers with masks take the mode `"float8"` alone, whose kernels stay
        floats; the modes for prediction are for what `strip` returns. Layers
        without masks take any. Compile the model again afterwards.

        Args:
            mode: As for `keras.Model.quantize`.
            config: As for `keras.Model.quantize`.
            filters: As for `keras.Model.quantize`.
            **kwargs: As for `keras.Model.quantize`.

        Raises:
            ValueError: If a layer with a mask would lose its float kernel;
                the model then stays as it is.

        Example:

        ```python
        sparse.quantize("float8")
        keras_freetickets.strip(sparse).quantize("int8")
        ```
        """
        masked = {id(masked.kernel) for masked in self.masked_kernels}
        for layer in keras_adapter.quantized_by(self, filters):
            if masked & {id(weight) for weight in layer.weights}:
                check_quantization(layer, mode, config)
        super().quantize(mode, config=config, filters=filters, **kwargs)

    def fit(self, *args, **kwargs):
        trainer = get_backend()
        self._check_companion()
        if self.compiled:
            trainer.check_fit(self)
        if self.built and self.compiled:
            self.project()  # weights may have been set, or loaded
        # An exception in `fit`, or Ctrl-C, would leave a method attached.
        try:
            history = super().fit(*args, **kwargs)
        finally:
            try:
                keras_adapter.synchronize(self)
            finally:
                self.release()
        self._warn_of_strays()
        self.project()  # EarlyStopping restores masks, but no slots
        return history

    def _check_companion(self):
        name = getattr(self._objective, "companion", None)
        if name is not None:
            raise ValueError(
                "The loss of `set_objective` is told the epoch by a callback, "
                "which sets it itself: call model.set_objective(None) and "
                f"pass keras_freetickets.callbacks.{name} to `fit`. "
                f"Received: an objective {type(self._objective).__name__}"
            )

    def _warn_of_strays(self):
        """A step or callback of a user's own may assign to kernels."""
        strays = {}
        for masked in self.masked_kernels:
            mask = ops.convert_to_numpy(masked.mask.value)
            kernel = ops.convert_to_numpy(masked.kernel.value)
            count = np.count_nonzero(kernel[~mask])
            if count:
                strays[masked.name] = int(count)
        if strays:
            warnings.warn(
                "Weights outside the masks were not zero when training ended, "
                f"and are cleared: {strays}. What a `train_step` or a callback "
                "assigns to kernels must lie within the masks; "
                "`model.apply_gradients` does (docs/own_training_loop.md).",
                stacklevel=3,
            )

    def defer(self, action):
        """Has `action()` called when `fit` ends, be it by an exception.

        Args:
            action: Callable without arguments.
        """
        self._deferred.append(action)

    def release(self):
        """Calls what was deferred, once."""
        deferred, self._deferred = self._deferred, []
        for action in deferred:
            action()

    def detach(self):
        """Leaves the masks as they are from the next step on."""
        self._method = None
        self._choose_step()

    def set_objective(self, objective):
        """Trains with a loss that has a state, in place of the compiled one.

        Args:
            objective: A `keras_freetickets.losses.MOON`, or `None` for the
                compiled loss. One that takes probabilities
                (`from_logits=False`) is computed from the logits beneath
                them.

        Raises:
            ValueError: If the loss takes probabilities and the model does not
                end in a softmax.
        """
        softmax = None
        if not getattr(objective, "from_logits", True):
            softmax = logits.SoftmaxEnd(self)
        self._softmax = softmax
        self._objective = objective
        if objective is not None:
            with self.scope():
                for name, initial in objective.scalar_state.items():
                    self.update_state.add_scalar(name, initial)
        self._choose_step()

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if self._objective is None or not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        trainer, state = get_backend(), self.update_state.state
        arguments = (y, y_pred, state, sample_weight, trainer.of_replicas)
        if self._outputs_are_logits():
            loss = self._objective(*arguments, from_logits=True)
        else:
            loss = self._objective(*arguments)
        # A replica's share, as of Keras' own losses.
        return sum(self.losses, loss) / trainer.replicas()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if self._outputs_are_logits():
            y_pred = ops.softmax(ops.cast(y_pred, "float32"))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    @contextlib.contextmanager
    def training_scope(self):
        """Context of a training step: outputs are what the loss is made of.

        Those of a model that ends in a softmax are logits within it if there
        is an objective (`set_objective`); otherwise nothing changes.

        Example:

        ```python
        with model.training_scope():
            loss = model.compute_loss(x, y, model(x, training=True))
        ```
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(logits.training(self))
            if self._softmax is not None:
                stack.enter_context(self._softmax.left_out())
            yield

    def _outputs_are_logits(self):
        return self._softmax is not None and logits.in_training(self)

    def track_ever_active(self):
        """Keeps for each connection whether it was ever active (R_s)."""
        keras_adapter.synchronize(self)
        with self.scope():
            for layer in self.sparse_layers:
                layer.add_state("ever_active", "bool")
        for masked in self.masked_kernels:
            ever = ops.convert_to_numpy(masked.state["ever_active"].value)
            mask = ops.convert_to_numpy(masked.mask.value)
            masked.state["ever_active"].assign(np.logical_or(ever, mask))
        self._choose_step()

    def ever_active(self):
        """Share of maskable weights that were ever active, a float."""
        keras_adapter.synchronize(self)
        masked_kernels = self.masked_kernels
        counts = [
            int(np.sum(ops.convert_to_numpy(r.state["ever_active"].value)))
            for r in masked_kernels
        ]
        return sum(counts) / sum(masked.size for masked in masked_kernels)

    def make_train_function(self, force=False):
        # Slots must exist before the step is traced.
        if self.built and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        if self._method is not None and self._is_compiled_anew():
            self.attach(self._method)
        with keras_adapter.own_train_step(self):
            super().make_train_function(force)
        self._compiled_steps.keep(self, self.step_traits())

    def _choose_step(self):
        """Takes the compiled step for what is attached now, or a new one."""
        self._compiled_steps.choose(self, self.step_traits())

    def step_is_new(self):
        """Whether the next step compiles first; true only once for a step."""
        return self._compiled_steps.is_new(self)

    def step_traits(self):
        """All that is traced into a step: an equal list, the same step."""
        method, masked_kernels = self._method, self.masked_kernels
        changing = method is not None and [
            method.takes_part(masked.active, masked.size)
            for masked in masked_kernels
        ]
        return [
            [self.run_eagerly, self.jit_compile, self.steps_per_execution],
            self.trainable_variables,
            [sorted(masked.state) for masked in masked_kernels],
            changing,
            method,
            self._objective,
        ]

    def _is_compiled_anew(self):
        """Whether updates are due by the steps of an optimizer that is gone."""
        return self._attached_to is not self.optimizer

    def set_weights(self, weights):
        super().set_weights(weights)
        self._clear_slots()

    def load_weights(self, *args, **kwargs):
        super().load_weights(*args, **kwargs)
        self._clear_slots()

    def _clear_slots(self):
        # The masks are others, but what the optimizer holds is not.
        if self.built:
            self.project()

    def training_batch(self, x, y, sample_weight):
        """What a step trains on, made of a batch of the data.

        Called inside the compiled step; for subclasses that mix examples.

        Args:
            x: Inputs of a batch.
            y: Targets of the batch.
            sample_weight: Weights of its examples, or `None`.

        Returns:
            Tuple of the same three.
        """
        return x, y, sample_weight

    def train_step(self, *args, **kwargs):
        with self.training_scope():
            return get_backend().train_step(self, *args, **kwargs)

    def apply_gradients(self, gradients, batch=None):
        """One sparse optimizer step, for a training loop of your own.

        Args:
            gradients: List of dense gradients of the loss (scaled by
                `optimizer.scale_loss` under mixed float16) with respect to
                `model.trainable_variables`, `None` where the loss does not
                reach.
            batch: Tuple `(x, y, sample_weight)`, the batch of these
                gradients, for methods that look at it again (AGENT).

        Raises:
            ValueError: If the model is not compiled, or `gradients` has not
                one entry for each trainable variable.

        Example:

        ```python
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        model.apply_gradients(tape.gradient(loss, model.trainable_variables))
        ```
        """
        trainer = get_backend()
        _check_gradients(self, gradients)
        trainer.apply_gradients(self, gradients, batch)

    def stateless_apply(
        self,
        trainable_variables,
        non_trainable_variables,
        optimizer_variables,
        gradients,
        batch=None,
    ):
        """`apply_gradients` as a pure function, for a loop of your own on JAX.

        Args:
            trainable_variables: List of values of `trainable_variables`.
            non_trainable_variables: List of values of the others (masks
                among them).
            optimizer_variables: List of values of `optimizer.variables`.
            gradients: As for `apply_gradients`.
            batch: As for `apply_gradients`.

        Returns:
            The three lists after the step.

        Raises:
            ValueError: As for `apply_gradients`.
        """
        _check_gradients(self, gradients)
        return get_backend().stateless_apply(
            self,
            trainable_variables,
            non_trainable_variables,
            optimizer_variables,
            gradients,
            batch,
        )

    def gradients_at(self, kernels, x, y, sample_weight=None):
        """Loss gradients at other values of the masked kernels.

        Batch-normalization statistics, seeds and all other variables are left
        untouched.

        Args:
            kernels: List of tensors, one for each of `connections`.
            x: Inputs of a batch.
            y: Targets of the batch.
            sample_weight: Optional weights of the batch's examples.

        Returns:
            List of dense gradients, one for each of `connections`.

        Raises:
            ValueError: If `kernels` has not one entry for each masked kernel,
                or one of these is frozen.
        """
        if len(kernels) != len(self.masked_kernels):
            raise ValueError(
                f"`kernels` must have {len(self.masked_kernels)} tensors, one "
                "for each of `model.masked_kernels`. "
                f"Received: {len(kernels)} tensors"
            )
        trained = {id(variable) for variable in self.trainable_variables}
        frozen = [
            r.name for r in self.masked_kernels if id(r.kernel) not in trained
        ]
        if frozen:
            raise ValueError(
                "Every masked kernel must be trainable, to have a gradient. "
                f"Received: frozen kernels {frozen}"
            )
        batch = (x, y, sample_weight)
        return step.gradients_at(get_backend(), self, kernels, batch)

    def forward_values(self):
        """What the last step computed with: values of the trained variables.

        They are the variables' own, unless the attached method has kernels of
        its own in the forward pass (CigL).

        Returns:
            List of tensors, one for each of `trainable_variables`.
        """
        stand_ins = {}
        if self._method is not None:
            kernels = step.forward_kernels(self, steps_ago=1)
            stand_ins = {id(kernel): value for kernel, value in kernels}
        return [stand_ins.get(id(v), v.value) for v in self.trainable_variables]

    def project(self):
        """Clears what lies outside the masks: kernels and optimizer slots."""
        keras_adapter.synchronize(self)
        masked_kernels = self.masked_kernels
        slots = [[] for _ in masked_kernels]
        if self.compiled and self.optimizer.built:
            kernels = [masked.kernel for masked in masked_kernels]
            slots = keras_adapter.optimizer_slots(self.optimizer, kernels)
        for masked, found in zip(masked_kernels, slots):
            mask = ops.convert_to_numpy(masked.mask.value)
            for variable, initial in [(masked.kernel, 0.0), *found]:
                value = ops.convert_to_numpy(variable.value)
                fill = np.full_like(value, initial)
                variable.assign(np.where(mask, value, fill))


@keras.saving.register_keras_serializable(package="keras_freetickets")
class FunctionalSparseModel(SparseModel, keras_adapter.Functional):
    """What `SparseModel(inputs, outputs)` makes: its layers form a graph.

    Args:
        *args: As for `keras.Model`: inputs and outputs.
        **kwargs: As for `keras.Model`.

    Example:

    ```python
    SparseModel(inputs, outputs)
    ```
    """

    def __init__(self, *args, **kwargs):
        keras_adapter.Functional.__init__(self, *args, **kwargs)
        self._prepare()
        keras_adapter.name_by_layers(self, through=Sparse)

    def build(self, input_shape):
        keras_adapter.Functional.build(self, input_shape)

    def get_config(self):
        keras_adapter.refuse_legacy_config(self)
        config = super().get_config()
        frozen = keras_adapter.frozen_parts(self)
        graph = "layers" in config
        return {**config, "frozen": frozen} if frozen and graph else config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        # Keras' own configs do not say what is frozen within a layer.
        config = dict(config)
        frozen = config.pop("frozen", None)
        model = super().from_config(config, custom_objects=custom_objects)
        if frozen is not None:
            keras_adapter.freeze_parts(model, set(frozen))
        return model
