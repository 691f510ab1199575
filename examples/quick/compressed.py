"""Train a wide network with a twentieth of its weights, and nothing else.

python examples/quick/compressed.py
"""

import time

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_freetickets as kft

# 1,797 handwritten digits of 8x8 pixels; 400 of them are for testing.
x, y = load_digits(return_X_y=True)
x = x.astype("float32") / 16
x, x_test, y, y_test = train_test_split(x, y, test_size=400, random_state=0)


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(1024, activation="relu"),
            keras.layers.Dense(1024, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def seconds_of(model, callbacks=()):
    """Seconds of ten epochs, after one that compiles."""
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, y, epochs=1, verbose=0)
    start = time.perf_counter()
    model.fit(x, y, epochs=10, verbose=0, callbacks=list(callbacks))
    return time.perf_counter() - start


dense = network()
seconds = seconds_of(dense)

# Of compressed kernels only the active weights exist.
model = kft.sparsify(network(), 0.95, "uniform", storage="compressed", seed=0)
kft.sparsity_summary(model)
compressed = seconds_of(model, [kft.callbacks.SET(update_interval=100)])
print(f"seconds of ten epochs: dense {seconds:.1f}, {compressed:.1f}")

counts = [one.optimizer.variables for one in (dense, model)]
sizes = [sum(keras.ops.size(v) for v in found) for found in counts]
print(f"numbers of the optimizer: dense {sizes[0]:,}, {sizes[1]:,}")
scores = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
print(f"accuracy of the active weights: {scores['accuracy']:.3f}")

# The same network with masks, and back, without a difference.
kft.compress(kft.decompress(model)).save("compressed.keras")
