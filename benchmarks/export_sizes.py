"""Measures the files of three sparse tickets against that of a dense network.

```shell
python benchmarks/export_sizes.py --output=export_sizes.json
```

The network is 784-300-100-10, and learns what a random network of one hidden
layer says of random inputs: by RigL, so that
no weight has its initial value. Sizes depend on how many weights there are, and
little on what they are. `ratio` is the size of the file of all tickets
relative to one dense network in the same format and dtype, and for the packed
file, which holds no dense networks, relative to the `.keras` file that Keras
writes of one. `difference` is the largest between the probabilities of the
file and of the ensemble. Formats whose packages are not installed are left
out, and named.
"""

import os
import tempfile

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import new_report
from common import save

import keras_freetickets as kft

flags.adopt_module_key_flags(common)
flags.DEFINE_list("units", ["300", "100"], "Sizes of the hidden layers.")
flags.DEFINE_integer("inputs", 784, "Number of inputs.")
flags.DEFINE_integer("tickets", 3, "Number of tickets.")
flags.DEFINE_float("sparsity", 0.9, "Share of weights to remove.", 0, 1)
flags.DEFINE_integer("examples", 4096, "Number of examples to train on.")
flags.DEFINE_integer("epochs", 20, "Number of epochs to train.")
flags.DEFINE_list("formats", kft.deployment.formats.names(), "Formats.")

ENDINGS = {
    "keras": [".keras"],
    "saved_model": [""],
    "litert": [".tflite", ".tflite.zip"],
    "onnx": [".onnx", ".onnx.zip"],
    "openvino": [".xml"],
}
PACKED = (None, "float16", "int8")


def data():
    rng = np.random.default_rng(FLAGS.seed)
    x = rng.normal(size=(FLAGS.examples, FLAGS.inputs)).astype("float32")
    hidden = np.maximum(x @ rng.normal(size=(FLAGS.inputs, 32)), 0)
    return x, (hidden @ rng.normal(size=(32, 10))).argmax(axis=-1)


def network(seed):
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(int(units), "relu") for units in FLAGS.units]
    last = keras.layers.Dense(10, "softmax")
    return keras.Sequential([keras.Input((FLAGS.inputs,)), *hidden, last])


def trained(model):
    model.compile("adam", "sparse_categorical_crossentropy")
    rigl = kft.callbacks.RigL(update_interval=32)
    model.fit(*data(), epochs=FLAGS.epochs, verbose=0, callbacks=[rigl])
    return model


def exported(ensemble, name, ending, dtype, folder):
    path = os.path.join(folder, f"{name}_{dtype}{ending}")
    report = kft.export(
        ensemble,
        path,
        name,
        dtype=dtype,
        representative_data=data()[0][:128],
        verbose=False,
    )
    return {
        "format": name,
        "file": ending or "directory",
        "dtype": dtype,
        "bytes": report.bytes,
        "dense_bytes": report.dense_bytes,
        "ratio": report.bytes / report.dense_bytes,
        "difference": report.difference,
        "zeros": report.zeros,
    }


def packed(ensemble, dense_bytes, dtype, folder):
    path = os.path.join(folder, f"{dtype}.npz")
    ensemble.save_packed(path, dtype)
    again = kft.EnsembleModel.from_packed(path)
    x, _ = data()
    off = again.predict(x, verbose=0) - ensemble.predict(x, verbose=0)
    size = os.path.getsize(path)
    return {
        "format": "packed",
        "file": ".npz",
        "dtype": dtype or "float32",
        "bytes": size,
        "dense_bytes": dense_bytes,
        "ratio": size / dense_bytes,
        "difference": float(np.abs(off).max()),
    }


def show(row):
    print(
        "{format:12} {file:12} {dtype:13} {bytes:>10,} {dense_bytes:>10,} "
        "{ratio:6.3f} {difference:.1e}".format(**row),
        flush=True,
    )


def main(_):
    report = new_report()
    report["not_measured"] = {}
    tickets = [
        trained(kft.sparsify(network(i), FLAGS.sparsity, seed=i))
        for i in range(FLAGS.tickets)
    ]
    ensemble = kft.EnsembleModel(tickets)
    with tempfile.TemporaryDirectory() as folder:
        for name in FLAGS.formats:
            kind = kft.deployment.formats.get(name)
            for dtype in kind.dtypes:
                try:
                    kind.check_installed(dtype)
                except ImportError as error:
                    report["not_measured"][f"{name} {dtype}"] = str(error)
                    continue
                for ending in ENDINGS[name]:
                    row = exported(ensemble, name, ending, dtype, folder)
                    report["rows"].append(row)
                    show(row)
        path = os.path.join(folder, "dense.keras")
        network(FLAGS.seed).save(path)
        for dtype in PACKED:
            row = packed(ensemble, os.path.getsize(path), dtype, folder)
            report["rows"].append(row)
            show(row)
    save(report)


if __name__ == "__main__":
    app.run(main)
