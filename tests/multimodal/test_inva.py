"""The network of InVA: what is shared, what is computed, what trains."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_freetickets as kft
from keras_freetickets import multimodal

RANDOM = np.random.default_rng(0)
SHAPE = (4, 4, 1)
X = [RANDOM.normal(size=(6, *SHAPE)).astype("float32") for _ in range(2)]
Y = RANDOM.normal(size=(6, *SHAPE)).astype("float32")


def make(**settings):
    keras.utils.set_random_seed(0)
    settings = {"latent_size": 3, "hidden": (8,), "seed": 0, **settings}
    return multimodal.inva([SHAPE, SHAPE], SHAPE, **settings)


def arrays(outputs):
    return [ops.convert_to_numpy(one) for one in outputs]


def latents_of(model, name):
    return keras.Model(model.inputs, model.get_layer(name).output)


@pytest.mark.parametrize("shared", [True, False])
def test_the_deep_encoder_is_one_for_all_images(shared):
    model = make(shared_encoder=shared, noise=0.0)
    before = arrays(latents_of(model, f"z_{k}")(X) for k in range(2))
    name = "shared_mean" if shared else "deep_0_mean"
    model.get_layer(name).bias.assign([1.0, 2.0, 3.0])
    after = arrays(latents_of(model, f"z_{k}")(X) for k in range(2))
    pairs = zip(after, before, strict=True)
    changed = [np.abs(a - b).max() > 0.5 for a, b in pairs]
    assert changed == [True, shared]


def test_without_noise_it_is_an_autoencoder():
    """beta = 0: the loss is that of the squared errors alone."""
    model = make(noise=0.0, beta=0.0)
    first, second = arrays(model(X)), arrays(model(X))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    multimodal.compile_inva(model, "sgd")
    loss = model.evaluate(X, [Y, *X], verbose=0, return_dict=True)["loss"]
    errors = [
        np.square(a - b).sum(axis=(1, 2, 3)).mean()
        for a, b in zip(first, [Y, *X], strict=True)
    ]
    expected = errors[0] + 0.2 * (errors[1] + errors[2])
    assert loss == pytest.approx(expected, rel=1e-4)

    def dense(name, x, activation=None):
        kernel, bias = arrays(model.get_layer(name).weights)
        x = x @ kernel + bias
        return np.maximum(x, 0) if activation else x

    latents = []
    for k in range(2):
        x = dense(f"encoder_{k}_hidden_0", X[k].reshape(6, -1), "relu")
        h = dense(f"encoder_{k}_mean", x)
        z = dense("shared_mean", dense("shared_hidden_0", h, "relu"))
        latents.append(np.concatenate([h, z], axis=1))
    x = dense("outcome_hidden_0", np.concatenate(latents, axis=1), "relu")
    y = dense("outcome_image", x).reshape(Y.shape)
    np.testing.assert_allclose(y, first[0], atol=1e-4)


def test_permuting_modalities_with_their_encoders():
    one, two = (make(noise=0.0) for _ in range(2))
    for layer in one.layers:
        name = layer.name
        for a, b in (("_0", "_1"), ("_1", "_0")):
            for stem in ("encoder", "decoder"):
                if layer.name.startswith(stem + a):
                    name = stem + b + layer.name[len(stem + a) :]
        weights = layer.get_weights()
        if layer.name == "outcome_hidden_0":  # the order of its inputs
            weights[0] = np.concatenate([weights[0][6:], weights[0][:6]])
        two.get_layer(name).set_weights(weights)
    losses = []
    for model, order in ((one, [0, 1]), (two, [1, 0])):
        multimodal.compile_inva(model, "sgd")
        x = [X[i] for i in order]
        losses.append(model.evaluate(x, [Y, *x], verbose=0)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("source", ["outcome", "image"])
def test_gradients_reach_encoders_through_both_targets(source):
    model = make(noise=0.0, beta=0.0)
    weights = [1.0, 0.0, 0.0] if source == "outcome" else [0.0, 1.0, 1.0]
    model.compile(
        keras.optimizers.SGD(0.01),
        [multimodal.SumOfSquares() for _ in range(3)],
        loss_weights=weights,
    )
    kernels = [model.get_layer(f"encoder_{k}_hidden_0").kernel for k in (0, 1)]
    before = arrays(one.value for one in kernels)
    model.fit(X, [Y, *X], verbose=0)
    for old, kernel in zip(before, kernels, strict=True):
        assert np.abs(ops.convert_to_numpy(kernel.value) - old).max() > 1e-5


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_the_step_is_traced_once(sparsity, monkeypatch):
    """Variables made within it would cost a second trace on TensorFlow."""
    model = make()
    if sparsity:
        filters = multimodal.MASKED
        model = kft.sparsify(model, sparsity, filters=filters, seed=0)
    multimodal.compile_inva(model)
    traced, call = [], multimodal.SumOfSquares.call

    def counted(self, y_true, y_pred):
        traced.append(y_pred.shape)
        return call(self, y_true, y_pred)

    monkeypatch.setattr(multimodal.SumOfSquares, "call", counted)
    model.fit(X, [Y, *X], batch_size=3, epochs=2, verbose=0)
    assert len(traced) == len(model.outputs)


@pytest.mark.usefixtures("eagerly")
def test_masked_weights_stay_zero_and_heads_stay_dense(tmp_path):
    model = kft.sparsify(make(), 0.5, filters=multimodal.MASKED, seed=0)
    names = [layer.name for layer in model.sparse_layers]
    assert "encoder_0_hidden_0" in names and "outcome_image" in names
    assert not [n for n in names if "mean" in n or "variance" in n]
    multimodal.compile_inva(model)
    model.fit(
        X,
        [Y, *X],
        epochs=3,
        callbacks=[
            kft.callbacks.RigL(update_interval=1),
            multimodal.KLRamp(0.05, 2),
        ],
        verbose=0,
    )
    for one in model.masked_kernels:
        mask = ops.convert_to_numpy(one.mask.value)
        kernel = ops.convert_to_numpy(one.kernel.value)
        assert not kernel[~mask].any() and kernel[mask].any()
    saliency = multimodal.input_saliency(model, 1)
    kernel = ops.convert_to_numpy(
        model.get_layer("encoder_1_hidden_0").layer.kernel
    )
    expected = np.abs(kernel).sum(axis=1).reshape(SHAPE)
    np.testing.assert_allclose(saliency, expected, rtol=1e-6)
    model.save(tmp_path / "inva.keras")
    copy = keras.saving.load_model(tmp_path / "inva.keras")
    assert len(copy.predict(X, verbose=0)) == 3


def test_the_prior_through_z():
    """At a(z) = mean and variance 1 the divergence of h is 0."""
    model = make(prior_through_z=True, noise=0.0, beta=1.0)
    names = [layer.name for layer in model.layers]
    assert "prior_0_mean" in names and "prior_1_mean" in names
    for k in range(2):
        for name in (f"encoder_{k}_mean", f"encoder_{k}_log_variance"):
            layer = model.get_layer(name)
            layer.set_weights([0 * w for w in layer.get_weights()])
        model.get_layer(f"encoder_{k}_mean").bias.assign([1.0, -1.0, 0.5])
        prior = model.get_layer(f"prior_{k}_mean")
        prior.set_weights([0 * w for w in prior.get_weights()])
        prior.bias.assign([1.0, -1.0, 0.5])
    for name in ("shared_mean", "shared_log_variance"):
        layer = model.get_layer(name)
        layer.set_weights([0 * w for w in layer.get_weights()])
    model(X)
    np.testing.assert_allclose(
        [float(one) for one in model.losses], 0, atol=1e-6
    )
    model.get_layer("prior_0_mean").bias.assign([0.0, -1.0, 0.5])
    model(X)
    assert sum(float(one) for one in model.losses) == pytest.approx(0.5)


@pytest.mark.usefixtures("eagerly")
def test_a_missing_image_is_not_read():
    model = make(missing=True, noise=0.0)
    presence = np.array([[1.0, 0.0]] * 6, "float32")
    first = ops.convert_to_numpy(model([*X, presence])[0])
    other = ops.convert_to_numpy(model([X[0], 5 + X[1], presence])[0])
    np.testing.assert_array_equal(first, other)
    whole = ops.convert_to_numpy(model([*X, np.ones_like(presence)])[0])
    assert np.abs(whole - first).max() > 1e-4
    multimodal.compile_inva(model)
    model.fit([*X, np.ones_like(presence)], [Y, *X], epochs=2, verbose=0)


def test_large_images_are_convolved():
    shape = (72, 68, 1)
    model = multimodal.inva([shape], shape, 4, (8,))
    kinds = {type(layer).__name__ for layer in model.layers}
    assert {"Conv2D", "Conv2DTranspose"} <= kinds
    y, image = model([np.zeros((2, *shape), "float32")])
    assert tuple(y.shape) == tuple(image.shape) == (2, *shape)
    with pytest.raises(ValueError, match="dense encoder"):
        multimodal.input_saliency(model)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"latent_size": 0}, "`latent_size` must be"),
        ({"hidden": (0,)}, "`hidden` must be"),
        ({"missing": 1}, "`missing` must be"),
        ({"drop_rate": 1.0}, "`drop_rate` must be"),
        ({"beta": -1.0}, "`beta` must be"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="at least one modality"):
        multimodal.inva([], SHAPE)
    with pytest.raises(ValueError, match="`target_shape` must"):
        multimodal.inva([SHAPE], ())
