"""What the benchmarks share: flags, the machine, reports, timing.

Every benchmark runs on the Keras backend that `KERAS_BACKEND` names,
TensorFlow unless told otherwise, and on the device that backend chooses.
"""

import ctypes
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time

import keras
import numpy as np
from absl import flags

from keras_freetickets import applications
from keras_freetickets import files

FLAGS = flags.FLAGS
flags.DEFINE_integer("seed", 0, "Seed of weights, masks and data.")
flags.DEFINE_string("output", None, "JSON file for the figures.")

_PACKAGES = (
    "keras",
    "tensorflow",
    "jax",
    "numpy",
    "numba",
    "onnxruntime",
    "openvino",
    "sparselab",
    "torch",
)


def backend():
    return keras.backend.backend()


def machine():
    """Kind of processor, cores that this process may use, device."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {"processor": model, "cores": cores, "device": device()}


def device():
    """The kind of device that the backend computes on."""
    if backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    if backend() == "torch":
        return "cpu"  # what is measured there are kernels
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    return tf.config.experimental.get_device_details(gpus[0])["device_name"]


def versions():
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def images(dataset, data_dir):
    """Images with channels, from 0 to 1, and labels: training and test ones.

    Of scikit-learn's digits, the last 400 are those to test.
    """
    if dataset == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
        return (x[:-400], y[:-400]), (x[-400:], y[-400:])
    import tensorflow_datasets as tfds

    parts = tfds.load(
        dataset, split=["train", "test"], batch_size=-1, data_dir=data_dir
    )
    return tuple(
        (
            np.asarray(part["image"]).astype("float32") / 255,
            np.asarray(part["label"]),
        )
        for part in parts
    )


def new_report():
    """A report without rows; also prints what the figures depend on."""
    own = FLAGS.get_key_flags_for_module(sys.modules["__main__"])
    values = {flag.name: flag.value for flag in own if flag.name != "output"}
    report = {
        "backend": backend(),
        "machine": machine(),
        "versions": versions(),
        "flags": values,
        "rows": [],
    }
    print("{processor}, cores: {cores}, on {device}".format(**machine()))
    print(f"backend {backend()}, {report['versions']}")
    return report


def save(report):
    """Writes the report, whole or not at all, where `--output` says."""
    if FLAGS.output:
        with (
            files.atomic_path(FLAGS.output) as temporary,
            open(temporary, "w") as file,
        ):
            json.dump(report, file, indent=2)


def save_parts(parts, chosen):
    """Reports the rows of parts, saved after each.

    Args:
        parts: Dict of functions that return rows.
        chosen: List of names.
    """
    report = new_report()
    for part in chosen:
        report["rows"] += parts[part]()
        save(report)


def spread(values):
    """Median and quartiles of a list of figures."""
    low, high = np.percentile(values, [25, 75])
    return {
        "median": float(statistics.median(values)),
        "quartiles": [float(low), float(high)],
        "count": len(values),
    }


def shown(figures, digits=3):
    """`median (lower quartile .. upper quartile)`."""
    low, high = figures["quartiles"]
    middle = figures["median"]
    return f"{middle:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


def program(function, jit_compile=True):
    """Compiles a function of arrays; calls return when the work is done."""
    if backend() == "jax":
        import jax

        run = jax.jit(function) if jit_compile else function
        return lambda *args: jax.block_until_ready(run(*args))
    import tensorflow as tf

    run = tf.function(function, jit_compile=jit_compile, autograph=False)

    def call(*args):
        result = run(*args)
        # What the host can read has been computed.
        for tensor in tf.nest.flatten(result)[-1:]:
            tf.reshape(tensor, (-1,))[:1].numpy()
        return result

    return call


def timed(function, *args):
    """Milliseconds of a call by the clock and of the processors."""
    before = time.perf_counter(), time.process_time()
    function(*args)
    after = time.perf_counter(), time.process_time()
    return 1e3 * np.subtract(after, before)


NETWORKS = {
    # Name: builder, shape of an input, batch.
    "mlp": (lambda: _mlp((784,), (300, 100)), (784,), 128),
    "small_cnn": (
        lambda: applications.small_cnn(
            (32, 32, 3), 10, classifier_activation=None
        ),
        (32, 32, 3),
        128,
    ),
    "wrn-10-2": (lambda: _wide_resnet(10, 2), (32, 32, 3), 32),
    "wrn-16-4": (lambda: _wide_resnet(16, 4), (32, 32, 3), 32),
    "wrn-28-10": (lambda: _wide_resnet(28, 10), (32, 32, 3), 128),
    "mobilenet_v3_small": (lambda: _mobilenet(), (96, 96, 3), 32),
    # Many layers of one shape: what compiling takes is told by their number.
    **{
        f"deep-{n}": (lambda n=n: _mlp((32,), (32,) * (n - 1)), (32,), 32)
        for n in (8, 31, 64)
    },
    "six-64": (lambda: _mlp((64,), (64,) * 5), (64,), 32),
    "tiny": (lambda: _mlp((8,), (6,)), (8,), 4),
}


def _mlp(shape, units):
    inputs = x = keras.Input(shape)
    for count in units:
        x = keras.layers.Dense(count, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def _mobilenet():
    return keras.applications.MobileNetV3Small(
        (96, 96, 3), weights=None, classes=10, classifier_activation=None
    )


def _wide_resnet(depth, width):
    return applications.wide_resnet(
        depth, width, weight_decay=0.0, classifier_activation=None
    )


def network(name):
    """A dense model with logits, from the seed; equal from call to call."""
    keras.utils.set_random_seed(FLAGS.seed)
    return NETWORKS[name][0]()


def batch(name, size=None):
    """A random batch of tensors for a network: inputs and labels."""
    _, shape, usual = NETWORKS[name]
    rng = np.random.default_rng(FLAGS.seed)
    size = size or usual
    x = rng.standard_normal((size, *shape)).astype("float32")
    y = rng.integers(0, 10, size).astype("int32")
    return keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)


def optimizer(name):
    """The optimizers of the benchmarks: SGD with momentum, Adam."""
    if name == "sgd":
        return keras.optimizers.SGD(0.01, momentum=0.9)
    if name == "adam":
        return keras.optimizers.Adam(1e-3)
    raise ValueError(f"`optimizer` must be sgd or adam. Received: {name}")


def compile_model(model, optimizer_name, jit_compile):
    model.compile(
        optimizer(optimizer_name),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )


def peak_bytes(function):
    """Bytes that a call takes on top of what is held, `None` if unknown.

    On a GPU under JAX the allocator is asked; otherwise the kernel is, for
    the highest resident memory of this process (Linux).
    """
    if backend() == "jax":
        import jax

        if jax.devices()[0].platform != "cpu":
            return _peak_on_device(jax.devices()[0], function)
    if not forget_peak():
        return None
    before = resident("VmRSS")
    result = function()
    after = resident("VmHWM")
    del result
    return max(after - before, 0)


def _peak_on_device(device, function):
    """The allocator knows the highest use ever: exact if this is higher."""
    before = device.memory_stats()["bytes_in_use"]
    function()
    return device.memory_stats()["peak_bytes_in_use"] - before


def forget_peak():
    """Gives freed memory back and resets the process' peak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except (AttributeError, OSError):
        return False
    return True


def resident(name):
    """Bytes: resident memory ("VmRSS") or its peak ("VmHWM")."""
    with open("/proc/self/status") as file:
        lines = [line for line in file if line.startswith(name)]
    return 1024 * int(lines[0].split()[1])
