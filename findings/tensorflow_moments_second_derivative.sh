#!/usr/bin/env bash
# Keras 3.15.1 with TensorFlow 2.21.0, no other package.
#
# One would have guessed: a gradient of a gradient through LayerNormalization or
# GroupNormalization is what finite differences of the gradient say.
#
# What happens: `keras.ops.moments` on TensorFlow is `tf.nn.moments`, which
# computes the variance as the mean of `(x - stop_gradient(mean)) ** 2`. The
# first derivative of that is right, because distances from a mean sum to zero;
# the second lacks a term. Gradient matching, gradient penalties, influence
# functions and MAML compute something else, without a word. JAX is right.
#
# Output seen (derivative of a slope: by the tape, by finite differences):
#   LayerNormalization -0.4753 -0.1989
#   GroupNormalization -0.4753 -0.1989
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0
cat > "$folder/second.py" <<'PYTHON'
import keras
import tensorflow as tf

x = tf.constant([[0.3, -1.0, 2.0, 0.5]], "float64")
toward = tf.constant([[1.0, 2.0, -1.0, 0.5]], "float64")
weights = tf.constant([[0.2, -0.4, 1.0, 0.7]], "float64")


def slope(x, layer):
    """The gradient of a loss, along a direction."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(weights * layer(x))
    return tf.reduce_sum(toward * tape.gradient(loss, x))


for kind in (
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
):
    extra = {"groups": 1} if kind is keras.layers.GroupNormalization else {}
    layer = kind(dtype="float64", **extra)
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = slope(x, layer)
    gradient = float(tape.gradient(value, x)[0, 0])
    step = tf.constant([[1e-5, 0.0, 0.0, 0.0]], "float64")
    ends = slope(x + step, layer) - slope(x - step, layer)
    print(kind.__name__, f"{gradient:.4f} {float(ends) / 2e-5:.4f}")
PYTHON
cat > "$folder/expected" <<'TEXT'
LayerNormalization -0.4753 -0.1989
GroupNormalization -0.4753 -0.1989
TEXT
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 \
    "$folder/venv/bin/python" "$folder/second.py" 2> /dev/null \
    | tee "$folder/found"
diff "$folder/expected" "$folder/found"
