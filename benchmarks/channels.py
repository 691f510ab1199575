"""Measures networks that lost whole channels: accuracy, and time per runtime.

```shell
python benchmarks/channels.py --data_dir=../shared/tfds --output=channels.json
```

A convolutional network of `--filters` and `--units` (3x3, stride 2, batch
normalization; a dense layer) learns Fashion-MNIST in `--epochs`, by Adam whose
rate falls to zero along a cosine. Compared are:

- `dense`, and `small`, a dense network of the sizes that are left when each
  layer loses an equal share of its channels;
- `rigl_uniform`, `rigl_erk`: unstructured, of the connections of `small`;
- `chase_layer`, `chase_global`: channels go in steps (`topology.Chase`), down
  to at most the connections of `small`; `compact` then makes a plain network.

Of `rigl_*` the one that is better on a sixth of the images to train, held out,
with the first seed is trained with the other seeds; test images choose nothing.
Rows of `time` are those of a compact network against the dense one, in turns:
medians with quartiles of the ratio of each turn, by the clock and by the
processor's time, beside a second copy of the dense network as a control. To go
on with a report, whose networks are not trained again, and to take the times
again, of networks of the same shapes:

```shell
python benchmarks/channels.py --data_dir=../shared/tfds \
    --networks=channels.json --output=channels.json
```
"""

import json
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
flags.DEFINE_integer("examples", 0, "Training images; 0 for all.")
flags.DEFINE_list("filters", ["32", "64"], "Channels of the convolutions.")
flags.DEFINE_integer("units", 128, "Units of the dense layer.")
flags.DEFINE_float("channel_sparsity", 0.505, "Share of channels to remove.")
flags.DEFINE_integer("epochs", 6, "Number of epochs to train.")
flags.DEFINE_integer("interval", 100, "Updates between those of masks.")
flags.DEFINE_integer("seeds", 3, "Number of seeds.")
flags.DEFINE_string("networks", None, "Report to go on with.")
flags.DEFINE_integer("turns", 30, "Predictions to take the time of.")
flags.DEFINE_list("batches", ["1", "256"], "Images in a prediction.")
flags.DEFINE_list(
    "formats",
    ["keras", "saved_model", "litert", "onnx", "openvino"],
    "Formats.",
)

BATCH = 128
# Channels are gone after this part of the updates; RigL's masks stop changing
# after the second (as in its paper).
REMOVED, STOPPED = 0.6, 0.75
CHASE = ["chase_layer", "chase_global"]


def network(shape, filters, units):
    inputs = x = keras.Input(shape)
    for count in filters:
        x = keras.layers.Conv2D(
            count, 3, strides=2, padding="same", use_bias=False
        )(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(units, "relu")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(10, "softmax")(x))


def sizes(share=1.0):
    count = [round(int(n) * share) for n in FLAGS.filters]
    return count, round(FLAGS.units * share)


def kernels(model):
    """How many weights the kernels of a model have."""
    shapes = [weight.shape for weight in model.weights]
    return sum(int(np.prod(shape)) for shape in shapes if len(shape) > 1)


def trained(kind, seed, data):
    """Trains a network; returns what is to be told of it."""
    (x, y), rest = data["train"], ["validation", "test"]
    shape = x.shape[1:]
    keras.utils.set_random_seed(seed)
    steps = FLAGS.epochs * -(-len(x) // BATCH)
    left = 1.0 - FLAGS.channel_sparsity
    model = network(shape, *sizes(left if kind == "small" else 1.0))
    callbacks = []
    if kind.startswith(("rigl", "chase")):
        wanted = kernels(network(shape, *sizes(left)))
        sparsity = 1.0 - wanted / kernels(model)
        spread_by = "erk" if kind in ("rigl_erk", "chase_global") else "uniform"
        model = kft.sparsify(model, sparsity, spread_by, seed=seed)
        end = int(steps * (REMOVED if kind.startswith("chase") else STOPPED))
        settings = {
            "update_interval": FLAGS.interval,
            "drop_fraction": kft.topology.schedules.Cosine(
                0.3, decay_steps=end
            ),
            "stop_step": end,
        }
        if kind.startswith("rigl"):
            callbacks = [kft.callbacks.RigL(**settings)]
        else:
            groups = kft.channel_groups(model)
            chase = kft.callbacks.Chase(
                FLAGS.channel_sparsity,
                groups,
                end_step=end,
                scope=kind.removeprefix("chase_"),
                **settings,
            )
            callbacks = [chase]
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy"
    )
    start = time.perf_counter()
    model.fit(
        x,
        y,
        BATCH,
        FLAGS.epochs,
        verbose=0,
        callbacks=callbacks,
    )
    seconds = time.perf_counter() - start
    found = {"kind": kind, "seed": seed, "seconds_of_training": seconds}
    plain = model
    if callbacks:
        found["active"] = sum(
            int(np.asarray(one.mask.value).sum())
            for one in model.masked_kernels
        )
        plain = kft.compact(model)
        sample = data["test"][0][:256]
        found["difference_of_compact"] = float(
            np.abs(
                plain.predict(sample, verbose=0)
                - model.predict(sample, verbose=0)
            ).max()
        )
    found["parameters"] = plain.count_params()
    found["kernels"] = [
        list(w.shape) for w in plain.weights if len(w.shape) > 1
    ]
    for name in rest:
        inputs, labels = data[name]
        right = plain.predict(inputs, 1024, verbose=0).argmax(-1) == labels
        found[name] = float(right.mean())
    return found


def predictor(name, path, specs):
    if name == "keras":
        model = keras.models.load_model(path, compile=False)
        return model.predict_on_batch
    artifact = formats.get(name).read(path, specs)
    return lambda x: artifact.predict([x])


def times_of(run, x):
    """Milliseconds of each predictor, by the clock and by the processor."""
    clock = {kind: [] for kind in run}
    processor = {kind: [] for kind in run}
    # A call may be shorter than the processor's clock ticks.
    calls = max(1, 64 // len(x))
    for turn in range(FLAGS.turns + 5):
        for kind, (predict, _) in run.items():
            start = time.perf_counter(), time.process_time()
            for _ in range(calls):
                predict(x)
            spent = time.perf_counter(), time.process_time()
            if turn >= 5:
                clock[kind].append(1e3 * (spent[0] - start[0]) / calls)
                processor[kind].append(1e3 * (spent[1] - start[1]) / calls)
    return clock, processor


def timed(report, kind_of_small, dense, small, data):
    """Times both networks in each runtime, in turns."""
    x, _ = data["test"]
    for name in FLAGS.formats:
        try:
            formats.get(name).check_installed("float32")
        except ImportError as error:
            report["not_measured"][name] = str(error)
            continue
        with tempfile.TemporaryDirectory() as folder:
            run = {}
            for kind, model in (
                ("dense", dense),
                ("control", dense),
                ("compact", small),
            ):
                path = os.path.join(folder, kind + formats.get(name).ending)
                done = kft.export(
                    model, path, name, representative_data=x[:64], verbose=False
                )
                specs = formats.specs_of(model)
                run[kind] = predictor(name, path, specs), done
            for batch in map(int, FLAGS.batches):
                clock, processor = times_of(run, x[:batch])
                row = {"compact": kind_of_small, "format": name, "batch": batch}
                for kind in run:
                    row[f"milliseconds_of_{kind}"] = spread(clock[kind])
                for kind in ("compact", "control"):
                    for by, times in (("", clock), ("processor_", processor)):
                        ratios = np.divide(times[kind], times["dense"])
                        row[f"{by}ratio_of_{kind}"] = spread(ratios.tolist())
                row["bytes"] = {kind: run[kind][1].bytes for kind in run}
                report["time"].append(row)
                print(
                    f"{kind_of_small:12} {name:12} {batch:5} "
                    f"{row['milliseconds_of_dense']['median']:.3f} ms dense, "
                    f"{row['ratio_of_compact']['median']:.2f} compact "
                    f"({row['processor_ratio_of_compact']['median']:.2f}), "
                    f"{row['ratio_of_control']['median']:.2f} control "
                    f"({row['processor_ratio_of_control']['median']:.2f})",
                    flush=True,
                )


def of_kernels(shape, kernels):
    """A network for images of a shape whose kernels have these shapes."""
    filters = [kernel[-1] for kernel in kernels if len(kernel) == 4]
    return network(shape, filters, kernels[-2][-1])


def main(_):
    report = new_report()
    report.update(networks=[], chosen=None)
    if FLAGS.networks:
        with open(FLAGS.networks) as file:
            before = json.load(file)
        report["networks"] = before["networks"]
        report["trained_on"] = {
            key: before[key] for key in ("machine", "versions", "flags")
        }
    report.update(time=[], not_measured={})
    (x, y), test = images(FLAGS.dataset, FLAGS.data_dir)
    held_out = len(x) // 6
    count = FLAGS.examples or len(x) - held_out
    data = {
        "train": (x[:count], y[:count]),
        "validation": (x[-held_out:], y[-held_out:]),
        "test": test,
    }
    found = {(one["kind"], one["seed"]): one for one in report["networks"]}

    def add(kind, seed):
        if (kind, seed) not in found:
            found[kind, seed] = one = trained(kind, seed, data)
            report["networks"].append(one)
            print(
                f"{kind:13} {seed} {one['parameters']:>8,} "
                f"{one['validation']:.4f} {one['test']:.4f}",
                flush=True,
            )
            save(report)
        return found[kind, seed]["validation"]

    seeds = range(FLAGS.seed, FLAGS.seed + FLAGS.seeds)
    rigl = ["rigl_uniform", "rigl_erk"]
    report["chosen"] = max(rigl, key=lambda kind: add(kind, FLAGS.seed))
    kinds = ["dense", "small", report["chosen"], *CHASE]
    for seed in seeds:
        for kind in kinds:
            add(kind, seed)
    report["summary"] = {}
    for kind in kinds:
        of_kind = [found[kind, seed] for seed in seeds]
        report["summary"][kind] = {
            name: spread([one[name] for one in of_kind])
            for name in ("test", "validation", "parameters")
        }
        print(kind, report["summary"][kind]["test"])
    save(report)
    dense = of_kernels(x.shape[1:], found["dense", FLAGS.seed]["kernels"])
    for kind in CHASE:
        small = of_kernels(x.shape[1:], found[kind, FLAGS.seed]["kernels"])
        timed(report, kind, dense, small, data)
    save(report)


if __name__ == "__main__":
    app.run(main)
