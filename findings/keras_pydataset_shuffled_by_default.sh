#!/bin/bash
# Keras 3.15.1 on JAX 0.10.2, no other package. Needs Python 3.11:
# PYTHON=python3.11 (the default).
#
# One would have guessed: `fit` takes the batches of a PyDataset in their order.
# The docstring of `fit` says that `shuffle` "is ignored when x is a
# keras.utils.PyDataset", and whoever wants another order writes it into
# `__getitem__` and `on_epoch_end`.
#
# What happens: `shuffle` is not ignored. By default `fit` draws the order of the
# batches anew for each epoch, from Python's `random`; with shuffle=False the
# batches come in their order. A data set which orders its own batches, so that a
# resumed training sees what the first one would have seen, has to be passed
# with shuffle=False.
#
# Output seen:
#   by default: [1, 2, 0, 4, 5, 3] [2, 4, 1, 5, 0, 3]
#   shuffle=False: [0, 1, 2, 3, 4, 5] [0, 1, 2, 3, 4, 5]
#   the docstring says that it is ignored: True
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
cat > "$folder/order.py" <<'PYTHON'
import random
import re
import sys

import keras
import numpy as np
from keras.src.trainers.trainer import Trainer  # where the docstring stands


class Batches(keras.utils.PyDataset):
    """Six batches, the number of each is in its labels."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return np.zeros((2, 1)), np.full((2, 1), index)


class Order(keras.losses.Loss):
    """The loss is the label."""

    def call(self, y_true, y_pred):
        return y_true[..., 0] + 0.0 * y_pred[..., 0]


class Note(keras.callbacks.Callback):
    """The mean of the labels so far, from which the batch follows."""

    def on_epoch_begin(self, epoch, logs=None):
        self.sums = [0.0]

    def on_train_batch_end(self, batch, logs=None):
        self.sums.append(logs["loss"] * (batch + 1))

    def on_epoch_end(self, epoch, logs=None):
        epochs.append([round(x) for x in np.diff(self.sums)])


def orders(**options):
    global epochs
    epochs = []
    random.seed(1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", Order())
    model.fit(Batches(), epochs=2, verbose=0, callbacks=[Note()], **options)
    return epochs


default, fixed = orders(), orders(shuffle=False)
print("by default:", *default)
print("shuffle=False:", *fixed)
said = re.sub(r"\s+", " ", Trainer.fit.__doc__)
ignored = re.search(r"shuffle: [^.]*\. This argument is ignored when `x` is a "
                    r"`keras.utils.PyDataset`", said) is not None
print("the docstring says that it is ignored:", ignored)
in_order = list(range(6))
same = ignored and fixed == [in_order] * 2 and all(
    one != in_order and sorted(one) == in_order for one in default
)
sys.exit(not same)
PYTHON
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/order.py"
