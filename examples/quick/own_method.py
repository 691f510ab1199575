"""Write a sparse-training method of your own: a class with two small methods.

python examples/quick/own_method.py
"""

import keras
import numpy as np
from keras import ops

import keras_freetickets as kft

# 2,000 points in 20 dimensions. Only the first four matter to the target.
generator = np.random.default_rng(0)
x = generator.normal(size=(2000, 20)).astype("float32")
y = np.sin(x[:, 0] * x[:, 1]) + x[:, 2] * x[:, 3]


# A method says which connections to drop, and which to grow: those of the
# lowest and of the highest score. `view` holds one kernel's values, its mask
# and its gradient, absent connections included. Use `keras.ops`, as the
# methods run inside the compiled training step.
@kft.topology.register("drop_by_effect")
class DropByEffect(kft.topology.Method):
    """Drops what changes the loss least: |weight * gradient|."""

    def drop_score(self, view):
        return ops.abs(view.kernel * view.gradient)

    def grow_score(self, view):
        return ops.abs(view.gradient)


# A regression network, half of its weights missing.
keras.utils.set_random_seed(0)
layers = [keras.layers.Dense(64, activation="relu") for _ in range(2)]
dense = keras.Sequential([keras.Input((20,)), *layers, keras.layers.Dense(1)])
model = kft.sparsify(dense, sparsity=0.5)
model.compile("adam", "mse")

# Every 20 optimizer updates a third of the connections is replaced.
callback = kft.callbacks.DropAndGrow(
    "drop_by_effect", update_interval=20, drop_fraction=0.33, stop_step=600
)
model.fit(x[:1600], y[:1600], epochs=20, verbose=0, callbacks=[callback])

# Have the connections found the inputs that matter?
kernel = ops.convert_to_numpy(model.masked_kernels[0].kernel)
strength = np.abs(kernel).sum(axis=1)  # of each of the 20 inputs
print(f"weights of an input that matters: {strength[:4].mean():.2f}")
print(f"weights of any other input: {strength[4:].mean():.2f}")
error = model.evaluate(x[1600:], y[1600:], verbose=0)
print(f"mean squared error {error:.3f}, of the mean {y[1600:].var():.3f}")
