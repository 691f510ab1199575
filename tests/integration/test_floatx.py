"""`keras.config.set_floatx`: the same decisions, whatever the default float.

On JAX with bfloat16 Keras 3.15 makes float32 of every number whose type is
not named, integers and booleans too.
"""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets import topology

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8))
Y = RNG.integers(0, 3, size=32)


@pytest.fixture(params=["bfloat16", "float16", "float64"])
def floatx(request):
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)  # follows but once
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def test_bits_and_selection(floatx):
    scores = RNG.permutation(60).astype("float32").reshape(6, 10) - 30
    mask = ops.convert_to_numpy(topology.select(scores, 20))
    np.testing.assert_array_equal(mask, scores >= 10)
    each = ops.convert_to_numpy(topology.select(scores, 3, groups=6))
    order = np.argsort(np.argsort(-scores, axis=1), axis=1)
    np.testing.assert_array_equal(each, order < 3)
    # Equal scores are ranked by the bits, which floatx must not change.
    tied = ops.convert_to_numpy(topology.select(np.zeros(60, "float32"), 20))
    keras.config.set_floatx("float32")
    same = ops.convert_to_numpy(topology.select(np.zeros(60, "float32"), 20))
    np.testing.assert_array_equal(tied, same)


def network(**kwargs):
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model = kft.sparsify(dense, 0.5, **kwargs)
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=[kft.metrics.ExpectedCalibrationError()],
    )
    return model


def check_fit(model, callback, dtype):
    begun = [np.array(c.mask.value) for c in model.masked_kernels]
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    moved = False
    for connection, mask in zip(model.masked_kernels, begun, strict=True):
        kernel = ops.convert_to_numpy(connection.kernel.value)
        now = ops.convert_to_numpy(connection.mask.value)
        assert keras.backend.standardize_dtype(connection.kernel.dtype) == dtype
        assert now.dtype == bool and not (kernel[~now] != 0).any()
        moved = moved or (now != mask).any()
    assert moved


def test_a_fit(floatx):
    if floatx == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is told so at its start")
    check_fit(network(), kft.callbacks.RigL(2), floatx)


METHODS = {
    "global": lambda: topology.RigL(2, scope="global"),
    "set": lambda: topology.SET(2),
    "snfs": lambda: topology.SNFS(update_interval=2),
    "dst_ee": lambda: topology.DSTEE(update_interval=2),
    "granet": lambda: topology.GraNet(0.8, end_step=8, update_interval=2),
    "srigl": lambda: topology.SRigL(update_interval=2),
    "agent": lambda: kft.callbacks.AGENT([(X, Y)], update_interval=2),
    "cigl": lambda: kft.callbacks.CigL(1, [(X, Y)], update_interval=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_methods(name, floatx):
    callback = METHODS[name]()
    if not isinstance(callback, keras.callbacks.Callback):
        callback = kft.callbacks.DropAndGrow(callback)
    kwargs = {}
    if name == "srigl":
        kwargs["mask_initializer"] = topology.ConstantFanInMask()
    check_fit(network(**kwargs), callback, floatx)


@pytest.mark.slow
def test_ensembles(floatx, tmp_path):
    ensemble = kft.EnsembleModel([network(), network()])
    path = tmp_path / "ensemble.npz"
    ensemble.save_packed(path)
    expected = ensemble.predict_members(X)
    again = kft.EnsembleModel.from_packed(path)
    np.testing.assert_array_equal(again.predict_members(X), expected)
    again.evaluate(X, Y, verbose=0)
    calibrated = kft.calibration.calibrate(ensemble, X, Y)
    calibrated.evaluate(X, Y, verbose=0)
