#!/usr/bin/env bash
# Keras 3.15.1 on JAX 0.10.2: `make_train_function(force=True)` may run the
# trace of the train function that it replaces.
#
# Guess: a forced train function is traced from the present `train_step`.
# What happens: JAX looks traces up by the function's equality, and every
# `model.train_step` is an equal bound method. As long as anything holds the
# train function of before, the new one runs its trace, and a change of the
# model that the trace had read as a constant has no effect. Once the old one
# is gone, the same call traces again.
#
# Output seen:
#   traced 1 after the first batch
#   traced 1 after a forced train function, the old one held
#   traced 2 after a forced train function, the old one gone
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2
cat > "$folder/run.py" <<'PYTHON'
import gc

import keras
import numpy as np

TRACED = []


class Model(keras.Sequential):
    factor = 1.0

    def compute_loss(self, *args, **kwargs):
        TRACED.append(self.factor)
        return self.factor * super().compute_loss(*args, **kwargs)


x = np.ones((4, 2), "float32")
model = Model([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.train_on_batch(x, x[:, :1])


def traced():
    return len(set(TRACED))


print("traced", traced(), "after the first batch")
held = model.train_function
model.factor = 2.0
model.make_train_function(force=True)
model.train_on_batch(x, x[:, :1])
print("traced", traced(), "after a forced train function, the old one held")
assert traced() == 1
model.train_function = held = None
gc.collect()
model.make_train_function(force=True)
model.train_on_batch(x, x[:, :1])
print("traced", traced(), "after a forced train function, the old one gone")
assert traced() == 2
PYTHON
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/run.py"
