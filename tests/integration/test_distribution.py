"""Promise P4 on two logical CPUs, in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    import keras
    import keras_freetickets as kft

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        dense = keras.Sequential(
            [
                keras.Input((10,)),
                keras.layers.Dense(30, activation="relu"),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
        model = kft.sparsify(dense, 0.7, "uniform", seed=0)
        model.compile("adam", "sparse_categorical_crossentropy")
    before = [r.mask.numpy() for r in model.connections]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(128, 10)).astype("float32")
    y = generator.integers(0, 3, 128)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    method = kft.topology.Method(2, 0.3, growth="{growth}")
    callback = kft.callbacks.DropAndGrow(method)
    model.fit(data, epochs=3, verbose=0, callbacks=[callback])
    assert int(model.topology.update_count.numpy()) == 12
    changed = 0
    for old, record in zip(before, model.connections):
        masks, kernels = (
            [v.numpy() for v in strategy.experimental_local_results(part.value)]
            for part in (record.mask, record.kernel)
        )
        assert len(masks) == len(kernels) == 2
        np.testing.assert_array_equal(masks[0], masks[1])
        np.testing.assert_array_equal(kernels[0], kernels[1])
        assert masks[0].sum() == record.active
        assert not kernels[0][~masks[0]].any()
        changed += (masks[0] != old).sum()
    assert changed
    with strategy.scope():
        model.compile("adam", steps_per_execution=2)
    try:
        model.fit(data)
    except ValueError as error:
        assert "`steps_per_execution` must be 1" in str(error)
    else:
        raise AssertionError("several steps at once were not refused")
"""


@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_replicas_choose_the_same_masks(growth):
    code = textwrap.dedent(SCRIPT).replace("{growth}", growth)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
