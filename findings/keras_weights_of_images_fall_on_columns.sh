#!/bin/sh
# Keras weights columns of pixels where it was given weights of images.
#
# Packages: keras 3.15.1, jax 0.10.2 (CPU), Python 3.11.
#
# Guess beforehand: Keras documents `sample_weight` as "a flat (1D) NumPy array
# with the same length as the input samples". For a network that classifies
# pixels, with a loss (images, height, width), the weight of an image would
# count for each of its pixels, as it does in Keras' own weighted metrics.
#
# What happens: the loss is multiplied by the weights as they are, so that they
# fall on the last axis. Where there are as many images in a batch as pixels in
# a row, nobody is told: 1 for the first image and 0 for the others scores the
# first column of every image. Otherwise the shapes do not fit, and an error of
# the backend says so without naming `sample_weight`.
#
# Seen:
#   loss of image 0 / 5:  0.1386
#   loss of column 0 / 5: 0.2852
#   evaluate says:        0.2852
#   weighted metric / 5:  0.1386
#
# Exits 0 while this is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 "jax==0.10.2" numpy
cat >"$folder/script.py" <<'PYTHON'
import keras
import numpy as np

# 5 images of 4 x 5 pixels, and a network that returns what it is given.
p = np.full((5, 4, 5, 2), 0.5, "float32")
p[:, :, 0] = [0.8, 0.2]  # the first column of every image is doubted more
y = np.zeros((5, 4, 5), "int32")
y[1:, :, 0] = 1
p[0] = 0.5
model = keras.Sequential([keras.Input((4, 5, 2)), keras.layers.Identity()])
model.compile(
    loss="sparse_categorical_crossentropy",
    weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(name="w")],
)
weight = np.array([1, 0, 0, 0, 0], "float32")
logs = model.evaluate(
    p, y, sample_weight=weight, batch_size=5, verbose=0, return_dict=True
)
own = -np.log(np.take_along_axis(p, y[..., None], -1)[..., 0])
image, column = own[0].mean() / 5, own[:, :, 0].mean() / 5
print(f"loss of image 0 / 5:  {image:.4f}")
print(f"loss of column 0 / 5: {column:.4f}")
print(f"evaluate says:        {logs['loss']:.4f}")
print(f"weighted metric / 5:  {logs['w'] / 5:.4f}")
assert abs(logs["loss"] - column) < 1e-4 and abs(image - column) > 0.1
assert abs(logs["w"] / 5 - image) < 1e-4
PYTHON
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/script.py"
