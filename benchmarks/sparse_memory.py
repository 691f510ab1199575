"""Parts of `real_sparse.py` on memory: each side in its own process."""

import gc
import json
import os
import subprocess
import sys
import tempfile

import keras
import numpy as np
from absl import flags
from common import peak_bytes
from sparse_cases import chain

import keras_freetickets as kft

FLAGS = flags.FLAGS
flags.DEFINE_integer("memory_size", 4096, "Units of the layers of `memory`.")
flags.DEFINE_string("memory_side", "", "Used by `memory`: dense or compressed.")
flags.DEFINE_list("memory_files", [], "Used by `convolution_memory`.")
flags.DEFINE_integer("memory_width", 12, "Width of `convolution_memory`.")


def memory_side():
    """Prints what making and training one side adds to the process."""
    dense = FLAGS.memory_side == "dense"
    sparsity = None if dense else FLAGS.sparsity[0]
    batch = 1 if FLAGS.memory_files else 128

    def train(model):
        optimizer = keras.optimizers.Adam(1e-4)
        model.compile(optimizer, "mse", jit_compile=False)
        x, y = (
            np.zeros((batch, *shape[1:]), "float32")
            for shape in (model.input_shape, model.output_shape)
        )
        for _ in range(4):
            model.train_on_batch(x, y)

    def small_and_large():
        if FLAGS.memory_files:
            return map(keras.models.load_model, FLAGS.memory_files)
        sizes = ((64, 2), (FLAGS.memory_size, 4))
        return (chain(size, depth, sparsity) for size, depth in sizes)

    models = iter(small_and_large())
    train(next(models))  # what the backend and compiling take
    gc.collect()
    added = peak_bytes(lambda: train(next(models)))
    print("RESULT " + json.dumps({"bytes": added}))


def convolution_memory_rows():
    """A wide residual network of 16 layers, Adam, one image of 8x8 pixels.

    It is read from a file, which makes no dense kernel, as `sparsify` does.
    """

    def files_of(side, sparsity):
        for width in (1, FLAGS.memory_width):
            model = kft.applications.wide_resnet(
                16, width, (8, 8, 3), weight_decay=0.0
            )
            if side != "dense":
                model = kft.sparsify(
                    model, sparsity, "uniform", storage="compressed", seed=0
                )
            path = os.path.join(directory, f"{side}_{sparsity}_{width}.keras")
            model.save(path)
            yield path

    case = f"memory, wide residual network 16-{FLAGS.memory_width}, adam"
    with tempfile.TemporaryDirectory() as directory:
        return memory_rows(
            f"{case}, batch 1",
            lambda *one: [f"--memory_files={','.join(files_of(*one))}"],
        )


def memory_rows(case=None, more=lambda side, sparsity: []):
    """Four layers, Adam, batch 128: what each side adds, by its own process.

    Args:
        case: String, the name of another case.
        more: Callable that returns flags for it, of a side and a sparsity.
    """
    case = case or f"memory, 4 x {FLAGS.memory_size}, adam, batch 128"
    rows = []
    cases = [("dense", FLAGS.sparsity[0])]
    cases += [("compressed", sparsity) for sparsity in FLAGS.sparsity]
    for side, sparsity in cases:
        command = [
            *(sys.executable, sys.argv[0], f"--memory_side={side}"),
            *(f"--sparsity={sparsity}", f"--memory_size={FLAGS.memory_size}"),
            *(f"--threads={FLAGS.threads}", f"--seed={FLAGS.seed}"),
            *more(side, sparsity),
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True
        )
        line = done.stdout.strip().splitlines()[-1]
        added = json.loads(line.removeprefix("RESULT "))["bytes"]
        name = side if side == "dense" else f"compressed {sparsity}"
        row = {"case": case, "name": name, "bytes": added}
        row["ratio"] = added / (rows[0]["bytes"] if rows else added)
        rows.append(row)
        print(f"{case}: {name:16} {added / 1e6:9.1f} MB, {row['ratio']:.3f}")
    return rows
