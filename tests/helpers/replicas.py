"""Sparse training on several devices, for `test_distribution.py`.

As a script, `replicas.py MODE DIRECTORY CASES [PROCESS ADDRESSES]` trains in
one of the ways below and writes what each device holds to `DIRECTORY`. What a
mode needs in the environment is in `ENVIRONMENT`.
"""

import contextlib
import json
import os
import sys

import keras
import numpy as np
from keras import layers

import keras_freetickets as kft

EPOCHS = 5
# Beside what the environment of the tests says of XLA.
_TWO = "--xla_force_host_platform_device_count=2"
_TWO = f"{os.environ.get('XLA_FLAGS', '')} {_TWO}".strip()
ENVIRONMENT = {
    "mirrored": {"KERAS_BACKEND": "tensorflow"},
    "workers": {"KERAS_BACKEND": "tensorflow"},
    "devices": {"KERAS_BACKEND": "jax", "XLA_FLAGS": _TWO},
    "processes": {"KERAS_BACKEND": "jax"},
}


def network(case):
    keras.utils.set_random_seed(0)
    policy = "mixed_float16" if case == "random" else "float32"
    # On JAX a batch is one, however many devices it lies on.
    synchronized = keras.backend.backend() == "tensorflow"
    if case == "embedding":
        return embedding_network()
    dense = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(24, activation="relu", dtype=policy, name="hidden"),
            layers.BatchNormalization(synchronized=synchronized),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )
    model = kft.sparsify(dense, 0.7, "uniform", seed=0)
    if case == "rigl":
        optimizer = keras.optimizers.Adam(0.01)
    else:
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def embedding_network():
    """As the others, but of tokens: a table of (10, 24), then the head."""
    inputs = keras.Input((6,), dtype="int32")
    table = layers.Embedding(10, 24, name="hidden")
    x = kft.layers.Sparse(table, kernels=("embeddings",), sparsity=0.7)(inputs)
    x = layers.GlobalAveragePooling1D()(x)
    head = layers.Dense(4, activation="softmax", name="head")
    model = kft.SparseModel(inputs, kft.layers.Sparse(head, sparsity=0.7)(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def dataset(case):
    import tensorflow as tf

    generator = np.random.default_rng(0)
    x = generator.normal(size=(128, 10)).astype("float32")
    if case == "embedding":
        x = generator.integers(0, 10, (128, 6)).astype("int32")
    y = generator.integers(0, 3 if case == "moon" else 4, 128)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


def callbacks_of(case, directory):
    if case in ("rigl", "embedding"):
        return [kft.callbacks.RigL(1)]
    if case == "snfs":
        snfs = kft.topology.SNFS(
            redistribution=False, update_interval=2, drop_fraction=0.3
        )
        return [kft.callbacks.DropAndGrow(snfs)]
    if case == "moon":
        # Their size decides between gradients and visits.
        dst_ee = kft.topology.DSTEE(exploration=0.02, update_interval=2)
        moon = kft.callbacks.MOON(
            EPOCHS, dataset(case), dst_ee, voting_epochs=0, learn_epochs=1
        )
        return [moon]
    if case == "agent":
        agent = kft.callbacks.AGENT(
            dataset(case).take(4), scale=1.0, update_interval=4
        )
        return [agent]
    if case == "edst":
        edst = kft.callbacks.EDST(
            exploration_epochs=1,
            refinement_epochs=2,
            num_tickets=2,
            update_interval=3,
            monitor="loss",
            directory=os.path.join(directory, "tickets"),
        )
        return [edst, kft.callbacks.Backup(os.path.join(directory, "backup"))]
    return [kft.callbacks.SET(1)]


def train(directory, case, parts, scope=contextlib.nullcontext):
    """Fits the model of a case and writes what each device holds.

    Args:
        directory: Where `CASE.npz` goes.
        case: `"rigl"`, `"random"`, `"edst"`, `"snfs"`, `"moon"`, `"agent"` or
            `"embedding"`.
        parts: Callable from a variable to what each device holds of it.
        scope: Callable that makes the context in which the model is made.
    """
    os.makedirs(directory, exist_ok=True)
    with scope():
        model = network(case)
    start = [record.mask.numpy() for record in model.masked_kernels]
    history = model.fit(
        dataset(case),
        epochs=EPOCHS,
        verbose=0,
        shuffle=False,
        callbacks=callbacks_of(case, os.path.join(directory, case)),
    ).history
    held = {f"log/{name}": history[name] for name in history}
    held["updates"] = model.update_state.update_count.numpy()
    for i, record in enumerate(model.masked_kernels):
        held[f"{i}/active"] = record.active
        held[f"{i}/start"] = start[i]
        held[f"{i}/mask"] = record.mask.numpy()
        held[f"{i}/kernel"] = record.kernel.numpy()
        held[f"{i}/masks"] = np.stack(parts(record.mask))
        held[f"{i}/kernels"] = np.stack(parts(record.kernel))
    np.savez(os.path.join(directory, f"{case}.npz"), **held)


def one(variable):
    return [variable.numpy()]


def shards(variable):
    return [np.asarray(s.data) for s in variable.value.addressable_shards]


def mirrored(directory, cases):
    """TensorFlow: one device, and two that hold the same."""
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def replicas(variable):
        local = strategy.experimental_local_results(variable.value)
        return [part.numpy() for part in local]

    for case in cases:
        train(os.path.join(directory, "one"), case, one)
        train(os.path.join(directory, "two"), case, replicas, strategy.scope)
    with strategy.scope():
        sparse = network("random")
        plain = keras.Sequential([keras.Input((10,)), layers.Dense(4)])
    refused = {
        "several_steps": ({}, {"steps_per_execution": 2}),
        "accumulation": ({"gradient_accumulation_steps": 2}, {}),
        "overwriting": ({"use_ema": True, "ema_overwrite_frequency": 2}, {}),
        "xla": ({}, {"jit_compile": True}),
    }
    for option, (of_optimizer, of_compile) in refused.items():
        for name, model in {"plain": plain, "sparse": sparse}.items():
            with strategy.scope():
                optimizer = keras.optimizers.SGD(**of_optimizer)
                model.compile(optimizer, "mse", **of_compile)
            write_error(model, os.path.join(directory, f"{name}_{option}.txt"))


def write_error(model, path):
    """What `fit` fails with, in a file."""
    x, y = np.ones((32, 10), "float32"), np.ones((32, 4), "float32")
    said = ""
    try:
        model.fit(x, y, verbose=0)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    with open(path, "w") as file:
        file.write(said)


def workers(directory, cases, process, addresses):
    """TensorFlow: this is one of two workers."""
    import tensorflow as tf

    task = {"type": "worker", "index": int(process)}
    cluster = {"worker": addresses.split(",")}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    for name in cases:
        with strategy.scope():
            plain = keras.Sequential([keras.Input((10,)), layers.Dense(4)])
            model = plain if name == "plain" else kft.sparsify(plain, 0.5)
            model.compile("sgd", "mse")
        write_error(model, os.path.join(directory, f"{name}_{process}.txt"))
    # Leaving in good order means waiting for the other one.
    os._exit(0)


def devices(directory, cases):
    """JAX: one device, two with the same kernels, two with half of each."""
    found = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], found)
    halves = keras.distribution.LayoutMap(mesh)
    halves["(hidden|head)/kernel"] = (None, "model")
    halves[".*hidden/kernel_mask"] = (None, "model")
    distributions = {
        "one": None,
        "two": keras.distribution.DataParallel(devices=found),
        "halves": keras.distribution.ModelParallel(
            layout_map=halves, batch_dim_name="batch"
        ),
    }
    for name, distribution in distributions.items():
        keras.distribution.set_distribution(distribution)
        parts = one if distribution is None else shards
        for case in cases:
            train(os.path.join(directory, name), case, parts)


def processes(directory, cases, process, addresses):
    """JAX: this is one of two processes, each with a device."""
    keras.distribution.initialize(addresses, 2, int(process))
    distribution = keras.distribution.DataParallel()
    assert len(distribution.device_mesh.devices) == 2
    keras.distribution.set_distribution(distribution)
    for case in cases:
        train(os.path.join(directory, f"process_{process}"), case, shards)


if __name__ == "__main__":
    mode, directory, cases, *more = sys.argv[1:]
    globals()[mode](directory, cases.split(","), *more)
