"""Optimizer steps that know no masks, on masked kernels."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.layers import Sparse
from keras_freetickets.layers.guard import guards_lowered

ON_JAX = keras.backend.backend() == "jax"
X, Y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
REFUSED = "this optimizer step ignores masks"


def network():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3)])


def sparse(sparsity=0.5):
    model = kft.sparsify(network(), sparsity, seed=0)
    model.compile("sgd", "mse")
    return model


def strays(model):
    return sum(
        int(np.count_nonzero(r.kernel.numpy()[~r.mask.numpy()]))
        for r in model.masked_kernels
    )


class GuideStepTensorFlow(kft.SparseModel):
    """The train step of the guides of Keras, for TensorFlow."""

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"loss": loss}


class RightStepTensorFlow(kft.SparseModel):
    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        self.apply_gradients(tape.gradient(loss, self.trainable_variables))
        return {"loss": loss}


class GuideStepJax(kft.SparseModel):
    """The same for JAX."""

    masked = False

    def loss_of(self, trainable, others, x, y):
        y_pred, others = self.stateless_call(
            trainable, others, x, training=True
        )
        return self.compute_loss(x, y, y_pred), others

    def train_step(self, state, data):
        import jax

        trainable, others, slots, metrics = state
        x, y = data
        (loss, others), gradients = jax.value_and_grad(
            self.loss_of, has_aux=True
        )(trainable, others, x, y)
        if self.masked:
            trainable, others, slots = self.stateless_apply(
                trainable, others, slots, gradients
            )
        else:
            trainable, slots = self.optimizer.stateless_apply(
                slots, gradients, trainable
            )
        return {"loss": loss}, (trainable, others, slots, metrics)


class RightStepJax(GuideStepJax):
    masked = True


GUIDE = GuideStepJax if ON_JAX else GuideStepTensorFlow
RIGHT = RightStepJax if ON_JAX else RightStepTensorFlow


def own(kind):
    inputs = keras.Input((4,))
    layer = Sparse(layers.Dense(3), 0.5, seed=0)

    class Own(kind):
        def __init__(self):
            super().__init__()
            self.hidden = layer

        def call(self, x, training=None):
            return self.hidden(x, training=training)

    model = Own()
    model(inputs)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def test_a_train_step_of_the_guides_is_refused():
    model = own(GUIDE)
    before = model.get_weights()
    with pytest.raises(ValueError, match=REFUSED):
        model.fit(X, Y, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_train_step_with_our_apply_trains_sparsely():
    model = own(RIGHT)
    before = model.masked_kernels[0].kernel.numpy()
    rigl = kft.callbacks.RigL(update_interval=2, drop_fraction=0.5)
    model.fit(X, Y, batch_size=2, epochs=2, verbose=0, callbacks=[rigl])
    assert strays(model) == 0
    assert np.any(before != model.masked_kernels[0].kernel.numpy())
    assert int(model.update_state.update_count.numpy()) > 0


def test_a_dense_model_around_sparse_layers_is_refused():
    layer = Sparse(layers.Dense(3), 0.5)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=REFUSED):
        model.fit(X, Y, verbose=0)


def test_a_head_on_frozen_sparse_layers_trains():
    base = Sparse(layers.Dense(3), 0.5)
    model = keras.Sequential([keras.Input((4,)), base, layers.Dense(3)])
    base.trainable = False
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)


def test_a_sparse_student_of_a_dense_distiller_is_refused():
    student = sparse()
    distiller = keras.distillation.Distiller(
        teacher=network(),
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(),
    )
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match=REFUSED):
        distiller.fit(X, Y, verbose=0)


@pytest.mark.parametrize("scaled", [False, True])
def test_an_optimizer_of_ones_own_is_refused(scaled):
    """As that of a generator beside a discriminator, or of a loop."""
    model = sparse()
    optimizer = keras.optimizers.Adam()
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    variables = model.trainable_variables
    optimizer.build(variables)
    gradients = [keras.ops.ones_like(v.value) for v in variables]
    with pytest.raises(ValueError, match=REFUSED):
        optimizer.apply(gradients, variables)


def test_the_guard_is_up_again_after_a_step_that_fails():
    model = sparse()
    kernel = model.masked_kernels[0].kernel
    with (
        pytest.raises(ZeroDivisionError),
        guards_lowered([kernel]),
        guards_lowered([kernel]),
    ):
        assert kernel.constraint is None
        raise ZeroDivisionError
    assert kernel.constraint is kernel.mask_guard


def test_a_constraint_of_the_kernels_own_is_kept():
    dense = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, kernel_constraint=keras.constraints.NonNeg()),
        ]
    )
    model = kft.sparsify(dense, 0.5, seed=0)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(X, -5 * Y, verbose=0)
    kernel = model.masked_kernels[0].kernel.numpy()
    assert np.all(kernel >= 0.0) and strays(model) == 0


def test_a_stripped_model_is_free():
    model = kft.strip(sparse())
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
