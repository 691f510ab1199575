"""Measures accuracy, size and latency of quantized tickets, one and three.

```shell
python benchmarks/quantization.py --output=quantization.json
```

Tickets of 64-256-256-10 learn scikit-learn's digits (8x8 pixels; 1,397 to
train, 400 to test) by RigL. Each file is read by its runtime. `accuracy` is on
the test images; `milliseconds` those of one image at a time, the median of
runs. PQAT is prune-preserving quantization-aware training (one file a ticket:
of three, sizes and latencies are added up and probabilities averaged). Formats
whose packages are not installed are left out, and named.
"""

import os
import tempfile
import time

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import new_report
from common import save
from common import spread
from sklearn.datasets import load_digits

import keras_freetickets as kft
from keras_freetickets.deployment import formats

flags.adopt_module_key_flags(common)
flags.DEFINE_list("units", ["256", "256"], "Sizes of the hidden layers.")
flags.DEFINE_integer("tickets", 3, "Number of tickets.")
flags.DEFINE_float("sparsity", 0.9, "Share of weights to remove.", 0, 1)
flags.DEFINE_integer("epochs", 30, "Number of epochs to train.")
flags.DEFINE_integer("runs", 300, "Predictions to take the time of.")
flags.DEFINE_list(
    "formats", ["keras", "litert", "onnx", "openvino"], "Formats."
)
flags.DEFINE_bool("pqat", True, "Whether to train for 8 bits too.")


def data():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    return (x[:-400], y[:-400]), (x[-400:], y[-400:])


def ticket(seed):
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(int(n), "relu") for n in FLAGS.units]
    last = keras.layers.Dense(10, "softmax")
    dense = keras.Sequential([keras.Input((64,)), *hidden, last])
    model = kft.sparsify(dense, FLAGS.sparsity, seed=seed)
    model.compile("adam", "sparse_categorical_crossentropy")
    rigl = kft.callbacks.RigL(update_interval=44)
    train, _ = data()
    model.fit(*train, epochs=FLAGS.epochs, verbose=0, callbacks=[rigl])
    return model


def measured(paths, name, specs):
    """Accuracy of the mean of some files, and the time of all."""
    _, (x, y) = data()
    loaded = [formats.get(name).read(path, specs) for path in paths]
    found = np.mean([one.predict([x])[0] for one in loaded], axis=0)
    times = []
    for i in range(FLAGS.runs + 20):
        image = [x[i % len(x)][None]]
        start = time.perf_counter()
        for one in loaded:
            one.predict(image)
        times.append(1e3 * (time.perf_counter() - start))
    return {
        "accuracy": float((found.argmax(-1) == y).mean()),
        "milliseconds": spread(times[20:]),  # after the first ones
    }


def row(report, kind, name, dtype, size, figures):
    found = {"model": kind, "format": name, "dtype": dtype, "bytes": size}
    report["rows"].append({**found, **figures})
    print(
        f"{kind:8} {name:9} {dtype:13} {size:>9,} {figures['accuracy']:.4f} "
        f"{figures['milliseconds']['median']:.3f} ms",
        flush=True,
    )


def main(_):
    report = new_report()
    report["not_measured"] = {}
    tickets = [ticket(seed) for seed in range(FLAGS.tickets)]
    models = {"one": tickets[0], "three": kft.EnsembleModel(tickets)}
    specs = formats.specs_of(tickets[0])
    (x, y), (x_test, y_test) = data()
    for kind, model in models.items():
        found = model.predict(x_test, verbose=0).argmax(-1)
        report[f"accuracy_of_{kind}"] = float((found == y_test).mean())
    with tempfile.TemporaryDirectory() as folder:
        for name in FLAGS.formats:
            for dtype in formats.get(name).dtypes:
                try:
                    formats.get(name).check_installed(dtype)
                except ImportError as error:
                    report["not_measured"][f"{name} {dtype}"] = str(error)
                    continue
                for kind, model in models.items():
                    ending = formats.get(name).ending
                    path = os.path.join(folder, f"{kind}_{dtype}{ending}")
                    done = kft.export(
                        model,
                        path,
                        name,
                        dtype=dtype,
                        representative_data=x[:200],
                        verbose=False,
                    )
                    figures = measured([path], name, specs)
                    row(report, kind, name, dtype, done.bytes, figures)
        if FLAGS.pqat:
            paths = [
                os.path.join(folder, f"pqat_{i}.tflite")
                for i in range(len(tickets))
            ]
            sizes = [
                kft.deployment.train_for_8_bits(
                    model, path, x, y, verbose=False
                ).bytes
                for model, path in zip(tickets, paths, strict=True)
            ]
            figures = measured(paths[:1], "litert", specs)
            row(report, "one", "litert", "int8, PQAT", sizes[0], figures)
            figures = measured(paths, "litert", specs)
            row(report, "three", "litert", "int8, PQAT", sum(sizes), figures)
    save(report)


if __name__ == "__main__":
    app.run(main)
