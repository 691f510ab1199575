#!/bin/bash
# Keras 3.15.1, TensorFlow 2.21.0, jax 0.10.2 (on JAX), no other package.
#
# One would have guessed: a model that ends in a softmax, with the same weights
# and the same cross-entropy, takes the same SGD step on every backend of Keras.
#
# What happens: on TensorFlow the loss finds the logits beneath the softmax and
# the step is the exact one. On JAX the loss clips probabilities at 1e-7, whose
# gradient is zero, so that an example which is wrong by 16 logits or more
# teaches nothing at all, without a warning. Training looks fine and never
# corrects its surest errors. End the model in logits, with a loss of
# `from_logits=True`, and both take the same step.
#
# Output seen (change of the kernel's first row; exact: -20, 20, 0, 0):
#   tensorflow softmax [-20.0, 20.0, 0.0, 0.0]
#   tensorflow logits [-20.0, 20.0, 0.0, 0.0]
#   jax softmax [0.0, 0.0, 0.0, 0.0]
#   jax logits [-20.0, 20.0, 0.0, 0.0]
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    keras==3.15.1 tensorflow==2.21.0 jax==0.10.2
cat > "$folder/step.py" <<'PYTHON'
import keras
import numpy as np

for end in ("softmax", "logits"):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                4,
                kernel_initializer="identity",
                activation="softmax" if end == "softmax" else None,
            ),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=end == "logits"
    )
    model.compile(keras.optimizers.SGD(1.0), loss)
    before = np.array(model.get_weights()[0])
    model.train_on_batch(np.array([[20.0, 0.0, 0.0, 0.0]]), np.array([1]))
    moved = np.round(model.get_weights()[0] - before, 3)[0] + 0.0
    print(keras.backend.backend(), end, moved.tolist())
PYTHON
cat > "$folder/expected" <<'TEXT'
tensorflow softmax [-20.0, 20.0, 0.0, 0.0]
tensorflow logits [-20.0, 20.0, 0.0, 0.0]
jax softmax [0.0, 0.0, 0.0, 0.0]
jax logits [-20.0, 20.0, 0.0, 0.0]
TEXT
for backend in tensorflow jax; do
    KERAS_BACKEND=$backend TF_CPP_MIN_LOG_LEVEL=3 \
        "$folder/venv/bin/python" "$folder/step.py" 2> /dev/null
done | tee "$folder/found"
diff "$folder/expected" "$folder/found"
