"""Draws the pictures of docs/gallery.md: one run of each method on digits.

    python docs/_gen/gallery.py                 # all, about three minutes
    python docs/_gen/gallery.py rigl set        # some

Each run trains 64-64-64-10 on 8x8 digits for 30 epochs at a sparsity of 0.9.
"""

import pathlib
import sys

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import keras_freetickets as kft

matplotlib.use("Agg")

from matplotlib import pyplot as plt

FOLDER = pathlib.Path(__file__).parents[1] / "pictures" / "gallery"
EPOCHS, BATCH, SPARSITY = 30, 64, 0.9
METHODS = [
    name
    for name in kft.recipes.SPARSE_TRAININGS
    if name not in ("dense", "static", "itop_set")
]


class Observer(keras.callbacks.Callback):
    """Notes masks and the layers' densities after each epoch."""

    def __init__(self):
        super().__init__()
        self.masks, self.densities = [], []

    def note(self):
        masks = [
            keras.ops.convert_to_numpy(one.mask.value)
            for one in self.model.masked_kernels
        ]
        self.masks.append(masks[0])
        self.densities.append([mask.mean() for mask in masks])

    def on_train_begin(self, logs=None):
        self.note()

    def on_epoch_end(self, epoch, logs=None):
        self.note()


def train(name):
    """One run; returns its `Observer`."""
    digits = load_digits()
    x = (digits.data / 16.0).astype("float32")
    y = digits.target
    keras.utils.set_random_seed(0)
    steps = -(-len(x) // BATCH)
    batches = [
        (x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)
    ]
    training = kft.recipes.sparse_training(
        name, SPARSITY, EPOCHS, steps, data=batches
    )
    dense = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(10 + training.extra_outputs, "softmax"),
        ]
    )
    model = kft.sparsify(dense, **training.sparsify_arguments)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    observer = Observer()
    callbacks = [*training.callbacks, observer]
    model.fit(x, y, BATCH, EPOCHS, verbose=0, callbacks=callbacks)
    return observer


def draw(name, observer):
    """The first layer's mask, its connections to each pixel, densities."""
    first, last = observer.masks[0], observer.masks[-1]
    # 0 absent, 1 since the start, 2 grown, 3 there at the start and dropped.
    kinds = np.select([first & last, last, first], [1, 2, 3], 0)
    colors = matplotlib.colors.ListedColormap(
        ["#f4f4f4", "#5b6c8f", "#2ca25f", "#f4b6a6"]
    )
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), layout="constrained")
    axes[0].imshow(kinds.T, cmap=colors, vmin=0, vmax=3, aspect="auto")
    axes[0].set(
        title="first layer's mask", xlabel="input (pixel)", ylabel="unit"
    )
    legend = {1: "kept", 2: "grown", 3: "dropped"}
    handles = [
        matplotlib.patches.Patch(color=colors(kind / 3), label=label)
        for kind, label in legend.items()
    ]
    axes[0].legend(
        handles=handles, fontsize=7, loc="upper right", framealpha=0.9
    )
    pixels = axes[1].imshow(last.sum(axis=1).reshape(8, 8), cmap="viridis")
    figure.colorbar(pixels, ax=axes[1], shrink=0.85)
    axes[1].set(title="connections of each pixel", xticks=[], yticks=[])
    densities = np.array(observer.densities)
    for i, values in enumerate(densities.T):
        style = ("-", "--", ":")[i % 3]  # layers may coincide
        axes[2].plot(values, style, label=f"layer {i + 1}")
    axes[2].set(title="density", xlabel="epoch", ylim=(0, 1.05))
    axes[2].legend(fontsize=7)
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png", dpi=80)
    plt.close(figure)


def main(names):
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        sys.exit(f"unknown methods {unknown}; there are {METHODS}")
    for name in names or METHODS:
        draw(name, train(name))
        print(f"{name}: {FOLDER / name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
