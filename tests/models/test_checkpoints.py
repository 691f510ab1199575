"""Masks through every way in which Keras saves a model while it trains."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft

pytestmark = pytest.mark.usefixtures("eagerly")

needs_orbax = pytest.mark.skipif(
    importlib.util.find_spec("orbax") is None, reason="orbax-checkpoint"
)


def build(seed):
    """Layers whose variables have a path of their own by each way to build."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    chain = [keras.Input((6,)), layers.Dense(8, name="same")]
    hidden = keras.Sequential(chain, name="base")(inputs)
    hidden = layers.Reshape((2, 4))(hidden)
    steps = layers.TimeDistributed(layers.Dense(4, name="same"), name="steps")
    hidden = layers.Flatten()(steps(hidden))
    outputs = layers.Dense(3, name="same")(hidden)
    sparse = kft.sparsify(keras.Model(inputs, outputs), 0.5, seed=seed)
    sparse.compile(keras.optimizers.Adam(0.01), "mse")
    sparse.optimizer.build(sparse.trainable_variables)
    # Masks that none makes again from the seed.
    for record in sparse.masked_kernels:
        record.mask.assign(np.roll(np.array(record.mask.value), 1, axis=0))
    sparse.project()
    return sparse


def state(model):
    """All that a checkpoint has to bring back, masks among it."""
    kept = [*model.weights, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in kept]


def fit(model, callbacks, epochs=1):
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    model.fit(
        x, x[:, :3], batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0
    )


def check(model, expected):
    for mine, its in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(mine, its)
    for record in model.masked_kernels:
        mask = np.array(record.mask.value)
        assert not np.array(record.kernel.value)[~mask].any()
        assert 0 < mask.sum() < mask.size


def check_weights(model, expected):
    count = len(model.weights)
    check(model, expected[:count] + state(model)[count:])


def test_files(tmp_path):
    checkpoints = keras.callbacks.ModelCheckpoint
    model = build(0)
    callbacks = [
        checkpoints(tmp_path / "whole.keras"),
        checkpoints(tmp_path / "of.weights.h5", save_weights_only=True),
    ]
    fit(model, callbacks)
    expected = state(model)
    check(keras.saving.load_model(tmp_path / "whole.keras"), expected)
    model.save(tmp_path / "folder", zipped=False)
    check(keras.saving.load_model(tmp_path / "folder"), expected)

    model.save_weights(tmp_path / "sharded.weights.json", max_shard_size=1e-6)
    for name in ("of.weights.h5", "sharded.weights.json", "whole.keras"):
        other = build(1)
        other.load_weights(tmp_path / name)
        check_weights(other, expected)


class StopError(Exception):
    """A crash after the first epoch."""


class Crash(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        kft.keras_adapter.synchronize(self.model)
        self.seen = state(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise StopError


class Restored(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.seen = state(self.model)


def test_backup_and_restore(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    crash, restored = Crash(), Restored()
    with pytest.raises(StopError):
        fit(build(0), [backup(), crash], epochs=2)
    fit(build(1), [backup(), restored], epochs=1)
    for mine, its in zip(restored.seen, crash.seen, strict=True):
        np.testing.assert_array_equal(mine, its)


@needs_orbax
def test_orbax_checkpoint(tmp_path):
    model = build(0)
    for folder in ("first", "of a loaded model"):
        callback = keras.callbacks.OrbaxCheckpoint(
            tmp_path / folder, save_on_background=False
        )
        fit(model, [callback])
        loaded = keras.saving.load_model(tmp_path / folder)
        check(loaded, state(model))
        model = loaded


def test_a_state_tree(tmp_path):
    model, other = build(0), build(1)
    for one in (model, other):
        one.evaluate(np.ones((2, 6)), np.ones((2, 3)), verbose=0)
    other.set_state_tree(model.get_state_tree(value_format="numpy_array"))
    check(other, state(model))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="of TensorFlow's formats"
)
def test_formats_of_tensorflow(tmp_path):
    import tensorflow as tf

    model = build(0)
    x = np.ones((2, 6), "float32")
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(served.serve(x), model(x), atol=1e-6)
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    other = build(1)
    tf.train.Checkpoint(model=other).read(str(tmp_path / "checkpoint"))
    check_weights(other, state(model))
