"""Measures accuracy, size and latency of quantized tickets, one and three.

```shell
python benchmarks/quantization.py --data_dir=../shared/tfds \
    --output=quantization.json
```

Tickets of 784-300-100-10 learn Fashion-MNIST by RigL (`--dataset=digits`:
scikit-learn's, of 8x8 pixels). Each file is read by its runtime. `accuracy` is
on the test images; `milliseconds` those of one image at a time, the median of
runs, with quartiles. In Keras, `int8`, `int4`, `gptq` and `awq` are
`Model.quantize` of the result of `strip` (the latter two with weights of 4
bits; no file is written, and probabilities of three are averaged). PQAT is
prune-preserving
quantization-aware training (one file a ticket: of three, sizes and latencies
are added up and probabilities averaged); beside it are tickets that were
trained on as long, by the same optimizer, in float32, and then rounded. Formats
whose packages are not installed are left out, and named.
"""

import copy
import functools
import os
import tempfile
import time

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import images
from common import new_report
from common import save
from common import spread

import keras_freetickets as kft
from keras_freetickets.deployment import formats

flags.adopt_module_key_flags(common)
flags.DEFINE_enum(
    "dataset", "fashion_mnist", ["fashion_mnist", "digits"], "Images."
)
flags.DEFINE_string("data_dir", None, "Directory of TFDS.")
flags.DEFINE_list("units", ["300", "100"], "Sizes of the hidden layers.")
flags.DEFINE_integer("tickets", 3, "Number of tickets.")
flags.DEFINE_float("sparsity", 0.9, "Share of weights to remove.", 0, 1)
flags.DEFINE_integer("epochs", 10, "Number of epochs to train.")
flags.DEFINE_integer("pqat_epochs", 2, "Number of epochs to train on.")
flags.DEFINE_integer("runs", 300, "Predictions to take the time of.")
flags.DEFINE_list("formats", ["litert", "onnx", "openvino"], "Formats.")
flags.DEFINE_bool("pqat", True, "Whether to train for 8 bits too.")


@functools.cache
def data():
    """Images and labels, to train and to test."""
    return tuple(
        (x.reshape(len(x), -1), y)
        for x, y in images(FLAGS.dataset, FLAGS.data_dir)
    )


def batch_size():
    return 32 if FLAGS.dataset == "digits" else 128


def ticket(seed):
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(int(n), "relu") for n in FLAGS.units]
    last = keras.layers.Dense(10, "softmax")
    train, _ = data()
    inputs = keras.Input(train[0].shape[1:])
    dense = keras.Sequential([inputs, *hidden, last])
    model = kft.sparsify(dense, FLAGS.sparsity, seed=seed)
    model.compile("adam", "sparse_categorical_crossentropy")
    steps = -(-len(train[0]) // batch_size())
    rigl = kft.callbacks.RigL(
        update_interval=min(100, steps), stop_step=steps * FLAGS.epochs * 3 // 4
    )
    model.fit(*train, batch_size(), FLAGS.epochs, verbose=0, callbacks=[rigl])
    return model


def trained_on(model):
    """A copy that trains as PQAT does, but is not rounded."""
    further = copy.deepcopy(model)
    rate = keras.optimizers.Adam(1e-4)
    further.compile(rate, "sparse_categorical_crossentropy")
    train, _ = data()
    further.fit(*train, batch_size(), FLAGS.pqat_epochs, verbose=0)
    return further


def by_keras(model, mode):
    """A stripped ticket in one of Keras' own modes."""
    plain = kft.strip(model)
    if mode not in ("gptq", "awq"):
        plain.quantize(mode)
        return plain
    (x, _), _ = data()
    kinds = {
        "gptq": keras.quantizers.GPTQConfig,
        "awq": keras.quantizers.AWQConfig,
    }
    config = kinds[mode](
        dataset=[x[:128]],
        tokenizer=lambda text: text,
        num_samples=8,
        sequence_length=x.shape[1],
        # -1, the whole column, fails for GPTQ beyond 128 inputs.
        group_size=128 if mode == "gptq" else -1,
        quantization_layer_structure={
            "pre_block_layers": [],
            "sequential_blocks": dense_layers(plain),
        },
    )
    plain.quantize(mode, config=config)
    return plain


def refusal(model, mode):
    """What `quantize` of a ticket with masks says."""
    try:
        model.quantize(mode)
    except ValueError as error:
        return str(error)
    return None


def quantized_by_keras(report, tickets):
    _, (x, y) = data()
    for mode in ("int8", "int4", "gptq", "awq"):
        members = [by_keras(model, mode) for model in tickets]
        found = [one.predict(x, 1024, verbose=0) for one in members]
        for kind, part in (("one", found[:1]), ("three", found)):
            right = np.mean(part, axis=0).argmax(-1) == y
            report["rows"].append(
                {
                    "model": kind,
                    "format": "keras",
                    "dtype": mode,
                    "accuracy": float(right.mean()),
                }
            )
            print(
                f"{kind:8} keras     {mode:13} {right.mean():.4f}", flush=True
            )
    report["refused_with_masks"] = {
        mode: refusal(tickets[0], mode) for mode in ("int8", "int4")
    }


def dense_layers(model):
    return [one for one in model.layers if isinstance(one, keras.layers.Dense)]


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
            settings = {"epochs": FLAGS.pqat_epochs, "batch_size": batch_size()}
            further = [trained_on(model) for model in tickets]
            for dtype, write in (
                (
                    "int8, trained on",
                    lambda i, path: kft.export(
                        further[i],
                        path,
                        dtype="int8",
                        representative_data=x[:200],
                        verbose=False,
                    ),
                ),
                (
                    "int8, PQAT",
                    lambda i, path: kft.deployment.train_for_8_bits(
                        tickets[i], path, x, y, verbose=False, **settings
                    ),
                ),
            ):
                paths = [
                    os.path.join(folder, f"{dtype[6:]}_{i}.tflite")
                    for i in range(len(tickets))
                ]
                sizes = [write(i, path).bytes for i, path in enumerate(paths)]
                figures = measured(paths[:1], "litert", specs)
                row(report, "one", "litert", dtype, sizes[0], figures)
                figures = measured(paths, "litert", specs)
                row(report, "three", "litert", dtype, sum(sizes), figures)
    save(report)
    quantized_by_keras(report, tickets)
    save(report)


if __name__ == "__main__":
    app.run(main)
