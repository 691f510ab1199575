import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.models import logits


def identity(activation):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(
                4, kernel_initializer="identity", activation=activation
            ),
        ]
    )


def test_a_softmax_and_a_compiled_loss_are_as_in_keras():
    """TensorFlow: the exact step. JAX: what Keras clips, see findings/."""
    moved = []
    for make in (lambda m: m, lambda m: kft.sparsify(m, 0.0)):
        model = make(identity("softmax"))
        model.compile(
            keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy"
        )
        model.train_on_batch(np.array([[20.0, 0, 0, 0]]), np.array([1]))
        kernel = np.array(model.trainable_variables[0].value)
        moved.append(kernel[0] - np.eye(4)[0])
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-6)
    exact = keras.backend.backend() == "tensorflow"
    expected = [-20, 20, 0, 0] if exact else np.zeros(4)
    np.testing.assert_allclose(moved[1], expected, atol=1e-5)


def test_scopes_of_two_models():
    one, other = identity(None), identity(None)
    with logits.training(one):
        assert logits.in_training(one) and not logits.in_training(other)
        with logits.training(other):
            assert logits.in_training(one) and logits.in_training(other)
        assert not logits.in_training(other)
    assert not logits.in_training(one)


@pytest.mark.parametrize("last", ["activation", "layer"])
def test_the_softmax_comes_back_after_all_who_left_it_out(last):
    model = identity("softmax" if last == "activation" else None)
    if last == "layer":
        model.add(layers.Softmax())
    x = np.eye(4, dtype="float32")
    before = keras.ops.convert_to_numpy(model(x))
    end = logits.SoftmaxEnd(model)
    first, second = end.left_out(), end.left_out()
    first.__enter__()
    second.__enter__()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), x)
    first.__exit__(None, None, None)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), x)
    second.__exit__(None, None, None)
    after = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(after, before)
    again = keras.models.clone_model(model)  # by its config
    again.set_weights(model.get_weights())
    again = keras.ops.convert_to_numpy(again(x))
    np.testing.assert_array_equal(again, before)


def test_which_losses_have_one_of_logits():
    y = np.array([1])
    smooth = keras.losses.CategoricalCrossentropy(
        label_smoothing=0.2, reduction="sum", name="mine"
    )
    found = logits.loss_of_logits(smooth, y)
    config = {**smooth.get_config(), "from_logits": True}
    assert found.get_config() == config and not smooth.from_logits
    for loss, kind in (
        ("ce", keras.losses.SparseCategoricalCrossentropy),
        (["categorical_crossentropy"], keras.losses.CategoricalCrossentropy),
    ):
        found = logits.loss_of_logits(loss, y)
        assert type(found) is kind and found.from_logits
    for loss in (
        "mse",
        keras.losses.CategoricalFocalCrossentropy(),
        lambda y, p: p,
        ["mse", "ce"],
    ):
        assert logits.loss_of_logits(loss, y) is None
