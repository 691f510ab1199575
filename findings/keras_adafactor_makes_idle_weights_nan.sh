#!/bin/bash
# Keras 3.15.1 (on TensorFlow 2.21.0), no other package.
#
# One would have guessed: a weight whose gradient is zero stays as it is, with
# Adafactor as with Adam, or moves by a tiny step.
#
# What happens: the square of a weight's gradient is estimated by that of its
# row times that of its column. If both are zero but for `epsilon_1`, 1e-30 by
# default, float32 rounds the product to 0, the step is 0 / 0, and clipping by
# the mean square of all steps makes the whole kernel NaN in the first step. One
# feature that is always 0 (a border pixel) and one unit that is never active
# suffice. With epsilon_1=1e-16 all stays finite.
#
# Output seen:
#   epsilon_1=1e-30, all inputs and units in use: NaN 0%
#   epsilon_1=1e-30, one idle input, one idle unit: NaN 100%
#   epsilon_1=1e-16, one idle input, one idle unit: NaN 0%
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0
cat > "$folder/train.py" <<'PYTHON'
import keras
import numpy as np

generator = np.random.default_rng(0)
targets = generator.random((64, 3)).astype("float32")


def share_of_nan(epsilon, idle):
    keras.utils.set_random_seed(0)
    x = generator.random((64, 8)).astype("float32") + 0.1
    hidden = keras.layers.Dense(16, activation="relu")
    model = keras.Sequential([keras.Input((8,)), hidden, keras.layers.Dense(3)])
    bias = np.full(16, 5, "float32")
    if idle:
        x[:, 0] = 0
        bias[0] = -1000
    hidden.bias.assign(bias)
    optimizer = keras.optimizers.Adafactor(1e-3, epsilon_1=epsilon)
    model.compile(optimizer, "mean_squared_error")
    model.fit(x, targets, verbose=0)
    return np.isnan(np.asarray(hidden.kernel)).mean()


for epsilon, idle in [(1e-30, False), (1e-30, True), (1e-16, True)]:
    what = "one idle input, one idle unit" if idle else (
        "all inputs and units in use"
    )
    print(f"epsilon_1={epsilon}, {what}: NaN {share_of_nan(epsilon, idle):.0%}")
PYTHON
found=$(TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/train.py" 2>/dev/null)
echo "$found"
expected="epsilon_1=1e-30, all inputs and units in use: NaN 0%
epsilon_1=1e-30, one idle input, one idle unit: NaN 100%
epsilon_1=1e-16, one idle input, one idle unit: NaN 0%"
[ "$found" = "$expected" ]
