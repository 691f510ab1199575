"""A Keras model that stays sparse while it trains."""

import contextlib
import typing
import warnings
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.layers import taps
from keras_freetickets.layers.compressed_kernels import CompressedKernel
from keras_freetickets.layers.export_guard import GuardsExport
from keras_freetickets.layers.kernels import MasksKernels
from keras_freetickets.layers.kernels import sparse_layers
from keras_freetickets.layers.parameters import CountsParameters
from keras_freetickets.layers.quantization import check_quantization
from keras_freetickets.layers.sparse import MaskedKernel
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.layers.update_state import UpdateState
from keras_freetickets.losses.objective import Objective
from keras_freetickets.models import compressed_training
from keras_freetickets.models import logits
from keras_freetickets.models.sparse_training import BatchTransform
from keras_freetickets.models.sparse_training import TrainingRun
from keras_freetickets.models.sparse_training import TrainsMembers
from keras_freetickets.models.sparse_training import begin_connection_state
from keras_freetickets.topology.methods import Method
from keras_freetickets.topology.methods.method import overrides
from keras_freetickets.trainers import get_backend
from keras_freetickets.trainers import step
from keras_freetickets.types import Batch
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor


def _is_functional_call(args, kwargs):
    return len(args) >= 2 or {"inputs", "outputs"} <= set(kwargs)


def _looks_at_kernels(method):
    """Whether a method reads kernels or masks when it is attached."""
    hooks = ("begin", "initial_state")
    return method.variable_state or any(
        overrides(method, hook) for hook in hooks
    )


def _check_gradients(model, gradients):
    if not model.compiled:
        raise ValueError(
            "The model must be compiled, because its optimizer makes the step: "
            f"call `model.compile(...)` first. Received: model={model.name!r}"
        )
    if model.method is not None and model._is_recompiled():
        raise ValueError(
            "A method counts the steps of the optimizer that the model had "
            "when it was attached: after `model.compile(...)` call "
            "`model.attach(method)` "
            f"again. Received: model.method={type(model.method).__name__}"
        )
    compressed_training.check_optimizer(model)
    if len(gradients) != len(model.trainable_variables):
        raise ValueError(
            f"`gradients` must have {len(model.trainable_variables)} entries, "
            "one for each of `model.trainable_variables`. "
            f"Received: {len(gradients)} gradients"
        )


def _make_functional(cls):
    """Replaces `SparseModel` by `FunctionalSparseModel` in a class's bases.

    Keras does the same with its own `Model`, because it cannot know before
    the constructor is called whether a subclass is functional.
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
    TrainsMembers,
    CountsParameters,
    keras_adapter.CompilesAnywhere,
    keras_adapter.RefusesLegacyFiles,
    keras_adapter.KeepsState,
    GuardsExport,
    keras.Model,
):
    """A model whose `Sparse` layers stay sparse during training.

    Make one with `keras_freetickets.sparsify`, from inputs and outputs like a
    `keras.Model`, or as a subclass with `Sparse` layers. After every step a
    kernel is exactly zero outside its mask, and the optimizer's slots have
    their initial value there. Without a method the masks do not change; a
    callback such as `keras_freetickets.callbacks.RigL`, or `attach`, lets them
    change.

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

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        if _is_functional_call(args, kwargs):
            _make_functional(type(self))
            FunctionalSparseModel.__init__(self, *args, **kwargs)
            return
        super().__init__(*args, **kwargs)
        self._prepare()

    def _prepare(self):
        self.run = TrainingRun(self)
        self.update_state = UpdateState(name="topology")

    @keras_adapter.default
    def build(self, input_shape: typing.Any) -> None:
        if not all(layer.built for layer in self.sparse_layers):
            keras_adapter.build_by_shapes(self, input_shape)
        self.built = True

    @property
    def sparse_layers(self) -> list[MasksKernels]:
        """List of the model's `Sparse` and compressed layers, nested ones too.

        Compressed ones are such as `layers.CompressedDense`.
        """
        return sparse_layers(self)

    @property
    def masked_kernels(self) -> list[MaskedKernel | CompressedKernel]:
        """List with an entry for each sparse kernel of the model.

        A `MaskedKernel`, or a `CompressedKernel` if only the active weights
        exist. Both have `name`, `shape`, `size`, `count()`, `mask_array()` and
        `kernel_array()`.
        """
        return [c for layer in self.sparse_layers for c in layer.masked_kernels]

    def attach(self, method: Method) -> None:
        """Lets `method` update the topology from the next step on.

        If the method sets `effective_at_inference`, then `evaluate`, `predict`
        and `strip` use its `forward_kernels` from now on, also after `detach`
        and in a loaded Functional model, until another method is attached. A
        call `model(x)` uses the kernels themselves.

        Callbacks that do a part of the method's work (`Method.companions`, as
        `GradientSnapshots` for `AGENT`) are passed to `fit`, which refuses to
        train without them; in a loop of your own you call them.

        Args:
            method: A `keras_freetickets.topology.Method`.

        Raises:
            ValueError: If the model is not compiled; if it is not built and
                `method` reads its kernels; or if `method` is not a `Method`.
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
                "attached, because the method reads its kernels: call the "
                "model on a batch, or `model.build(input_shape)`. "
                f"Received: method={type(method).__name__}"
            )
        keras_adapter.synchronize(self)
        compressed_training.check_method(self, method)
        with self.run.scope():
            for layer in self.sparse_layers:
                self._add_connection_state(layer, method)
            self._add_variable_state(method)
        for masked in self.masked_kernels:
            # Loaded masks may have a different count.
            masked.active = masked.count()
        method.begin(self.masked_kernels)
        self.project()
        self.run.method = method
        self.run.attached_to = self.optimizer
        self._compute_with(method if method.effective_at_inference else None)
        self.update_state.begin(self.optimizer, method)
        self.run.choose_step()

    def _add_connection_state(self, layer, method):
        for name, dtype in method.connection_state.items():
            if name not in layer.state:
                layer.add_state(name, dtype)
                begin_connection_state(layer, method, name)

    def _add_variable_state(self, method):
        for name, initial in method.scalar_state.items():
            self.update_state.add_scalar(name, initial)
        variables = self.trainable_variables
        for name in method.variable_state:
            if self.update_state.add_state(name, variables):
                self.update_state.restart_scalars(method.scalar_state)

    def quantize(
        self,
        mode: str | None = None,
        config: typing.Any = None,
        filters: typing.Any = None,
        **kwargs: typing.Any,
    ) -> None:
        """As `keras.Model.quantize`, but masked layers only take `"float8"`.

        With the mode `"float8"` kernels stay floats and trainable. For the
        modes for prediction, quantize the result of `strip`. Layers without
        masks accept any mode. Compile the model again afterwards.

        Args:
            mode: As for `keras.Model.quantize`.
            config: As for `keras.Model.quantize`.
            filters: As for `keras.Model.quantize`.
            **kwargs: As for `keras.Model.quantize`.

        Raises:
            ValueError: If a layer with a mask would lose its float kernel;
                the model is not changed then.

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

    def _before_fit(self, arguments):
        backend = get_backend()
        self._check_companion()
        if self.compiled:
            backend.check_fit(self)
            compressed_training.check_fit(self)
        if self.built and self.compiled:
            self.project()  # weights may have been set or loaded

    def _check_companion(self):
        name = getattr(self.run.objective, "companion", None)
        if name is not None:
            raise ValueError(
                "The loss of `set_objective` needs a callback that sets the "
                "loss and tells it the epoch: call model.set_objective(None) "
                f"and pass keras_freetickets.callbacks.{name} to `fit`. "
                f"Received: an objective {type(self.run.objective).__name__}"
            )

    def _after_fit(self):
        # A custom step or callback may have assigned to kernels.
        strays = {}
        for masked in self.masked_kernels:
            if masked.compressed:
                continue
            count = np.count_nonzero(
                masked.kernel_array()[~masked.mask_array()]
            )
            if count:
                strays[masked.name] = int(count)
        if strays:
            warnings.warn(
                "Weights outside the masks were not zero when training ended, "
                f"and were set to zero: {strays}. A `train_step` or callback "
                "must assign nonzero values only within the masks; "
                "`model.apply_gradients` does (docs/own_training_loop.md).",
                stacklevel=3,
            )

    def set_objective(self, objective: Objective | None) -> None:
        """Trains with a loss that has state, instead of the compiled loss.

        Args:
            objective: A `keras_freetickets.losses.Objective`, such as
                `keras_freetickets.losses.MOON`, or `None` for the compiled
                loss. An objective of probabilities (`from_logits=False`) is
                computed from the logits before the softmax.

        Raises:
            ValueError: If `objective` is not an `Objective`, or takes
                probabilities and the model does not end in a softmax.
        """
        if objective is not None and not isinstance(objective, Objective):
            raise ValueError(
                "`objective` must be a keras_freetickets.losses.Objective or "
                "None; pass losses without state to `model.compile`. "
                f"Received: objective={objective!r}"
            )
        softmax = None
        if not getattr(objective, "from_logits", True):
            softmax = logits.SoftmaxEnd(self)
        self.run.softmax = softmax
        self.run.objective = objective
        if objective is not None:
            with self.run.scope():
                for name, initial in objective.scalar_state.items():
                    self.update_state.add_scalar(name, initial)
                for name, shape in objective.tensor_state.items():
                    self.update_state.add_tensor(name, shape)
        self.run.choose_step()

    def add_batch_transform(self, transform: BatchTransform) -> None:
        """Transforms each training batch with a function.

        Use it for augmentation, and for methods that mix examples (MIMO). The
        function runs inside the compiled step, before the forward pass, and
        only in training. Several functions run in the order in which they
        were added. They remain when the model is compiled again. They are not
        saved with the model, so add them again after loading.

        Args:
            transform: Callable `(x, y, sample_weight, step) -> (x, y,
                sample_weight)` of tensors, which uses `keras.ops`. `x` and
                `y` come from the data, `sample_weight` may be `None`, and
                `step` is an `int32` scalar, the optimizer updates so far; use
                it to seed `keras_freetickets.topology.random_bits` or a
                stateless random function. The result may have more or fewer
                examples.

        Raises:
            ValueError: If `transform` is not callable.

        Example:

        ```python
        def flip_every_other_step(x, y, sample_weight, step):
            flipped = keras.ops.flip(x, axis=2)
            x = keras.ops.where(step % 2 == 0, x, flipped)
            return x, y, sample_weight

        model.add_batch_transform(flip_every_other_step)
        ```
        """
        if not callable(transform):
            raise ValueError(
                "`transform` must be a callable (x, y, sample_weight, step) "
                f"-> (x, y, sample_weight). Received: transform={transform!r}"
            )
        self.run.batch_transforms.append(transform)
        self.run.choose_step()

    def compute_loss(
        self,
        x: typing.Any = None,
        y: typing.Any = None,
        y_pred: Tensor = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        if self.run.objective is None or not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        trainer, state = get_backend(), self.update_state.state
        arguments = (y, y_pred, state, sample_weight, trainer.of_replicas)
        if self._outputs_are_logits():
            loss = self.run.objective(*arguments, from_logits=True)
        else:
            loss = self.run.objective(*arguments)
        # Each replica's share, as for Keras' own losses.
        return sum(self.losses, loss) / trainer.replicas()

    def compute_metrics(
        self,
        x: typing.Any,
        y: typing.Any,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> dict:
        if self._outputs_are_logits():
            y_pred = ops.softmax(ops.cast(y_pred, "float32"))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    @contextlib.contextmanager
    def training_scope(self) -> Iterator[None]:
        """Context of a training step: outputs are those that the loss needs.

        With an objective (`set_objective`), a model that ends in a softmax
        returns logits in this context. Compressed layers note what an update
        reads that grows by the gradient, so that a loop on TensorFlow calls
        the model, the tape's `gradient` and `apply_gradients` within it.
        Otherwise nothing changes.

        Example:

        ```python
        with model.training_scope():
            loss = model.compute_loss(x, y, model(x, training=True))
        ```
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(logits.training(self))
            if self.run.variant is not None:
                stack.enter_context(self.run.variant.scope())
            noting = compressed_training.notes_gradients(self)
            stack.enter_context(
                taps.collecting(taps.Taps() if noting else None)
            )
            if self.run.softmax is not None:
                stack.enter_context(self.run.softmax.left_out())
            yield

    def _outputs_are_logits(self):
        return self.run.softmax is not None and logits.in_training(self)

    def make_train_function(self, force: bool = False) -> None:
        # Slots must exist before the step is traced.
        if self.built and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        if self.run.method is not None and self._is_recompiled():
            self.attach(self.run.method)
        super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> None:
        with keras_adapter.own_step(self, "test_step"):
            super().make_test_function(force)

    def _is_recompiled(self):
        """Whether the model got another optimizer since `attach`."""
        return self.run.attached_to is not self.optimizer

    def _compute_with(self, method):
        """Evaluates and predicts with a method's kernels from now on."""
        if self.run.effective_method is not method:
            self.run.effective_method = method
            # They were traced for other kernels; trace them again when needed.
            self.test_function = self.predict_function = None

    def set_weights(self, weights: list) -> None:
        with compressed_training.slots_follow(self):
            super().set_weights(weights)
        self._clear_slots()

    def load_weights(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        with compressed_training.slots_follow(self):
            super().load_weights(*args, **kwargs)
        self._clear_slots()

    def _clear_slots(self):
        # The masks have changed, but the optimizer's slots have not.
        if self.built:
            self.project()

    def train_step(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        with self.training_scope():
            return get_backend().train_step(self, *args, **kwargs)

    def test_step(self, *args: typing.Any) -> typing.Any:
        return self._inference_step(super().test_step, *args)

    def predict_step(self, *args: typing.Any) -> typing.Any:
        return self._inference_step(super().predict_step, *args)

    def _inference_step(self, keras_step, *args):
        if self.run.effective_method is None:
            return keras_step(*args)
        return get_backend().inference_step(self, keras_step, *args)

    def apply_gradients(
        self, gradients: Sequence[Tensor | None], batch: Batch | None = None
    ) -> None:
        """One sparse optimizer step, for a custom training loop.

        Args:
            gradients: List of dense gradients of the loss (scaled by
                `optimizer.scale_loss` with mixed float16) with respect to
                `model.trainable_variables`; `None` for variables that do not
                affect the loss.
            batch: Tuple `(x, y, sample_weight)`, the batch of these
                gradients, for methods that use it again (AGENT).

        Raises:
            ValueError: If the model is not compiled, or `gradients` does not
                have one entry for each trainable variable.

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
        trainable_variables: Sequence[Tensor],
        non_trainable_variables: Sequence[Tensor],
        optimizer_variables: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        batch: Batch | None = None,
    ) -> tuple:
        """`apply_gradients` as a pure function, for a custom loop on JAX.

        Args:
            trainable_variables: List of values of `trainable_variables`.
            non_trainable_variables: List of values of
                `non_trainable_variables`, which include the masks.
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

    def gradients_at(
        self,
        kernels: Sequence[Tensor],
        x: typing.Any,
        y: typing.Any,
        sample_weight: Tensor | None = None,
    ) -> list[Tensor]:
        """Loss gradients at other values of the masked kernels.

        Batch-normalization statistics, seeds and all other variables do not
        change.

        Args:
            kernels: List of tensors, one for each of `masked_kernels`.
            x: Inputs of a batch.
            y: Targets of the batch.
            sample_weight: Optional weights of the batch's examples.

        Returns:
            List of dense gradients, one for each of `masked_kernels`.

        Raises:
            ValueError: If `kernels` does not have one entry for each masked
                kernel, or a masked kernel is frozen.
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
                "Every masked kernel must be trainable to have a gradient. "
                f"Received: frozen kernels {frozen}"
            )
        batch = (x, y, sample_weight)
        return step.gradients_at(get_backend(), self, kernels, batch)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class FunctionalSparseModel(SparseModel, keras_adapter.Functional):
    """The functional `SparseModel`, made by `SparseModel(inputs, outputs)`.

    Args:
        *args: As for `keras.Model`: inputs and outputs.
        **kwargs: As for `keras.Model`.

    Example:

    ```python
    SparseModel(inputs, outputs)
    ```
    """

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        keras_adapter.Functional.__init__(self, *args, **kwargs)
        self._prepare()
        keras_adapter.name_by_layers(self, through=Sparse)

    def build(self, input_shape: typing.Any) -> None:
        keras_adapter.Functional.build(self, input_shape)

    def get_config(self) -> Config:
        keras_adapter.refuse_legacy_config(self)
        config = super().get_config()
        if "layers" not in config:  # a class with its own constructor
            return config
        frozen = keras_adapter.frozen_parts(self)
        if frozen:
            config["frozen"] = frozen
        method = self.run.effective_method
        if method is not None:
            saved = keras.saving.serialize_keras_object(method)
            config["effective_method"] = saved
        return config

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: dict | None = None
    ) -> typing.Any:
        # Keras' own configs do not contain the frozen flags of sublayers.
        config = dict(config)
        frozen = config.pop("frozen", None)
        method = config.pop("effective_method", None)
        model = super().from_config(config, custom_objects=custom_objects)
        if frozen is not None:
            keras_adapter.freeze_parts(model, set(frozen))
        if method is not None:
            model.run.effective_method = keras.saving.deserialize_keras_object(
                method, custom_objects
            )
        return model
