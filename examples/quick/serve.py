"""Predict with three sparse networks from their active weights alone.

python examples/quick/serve.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_freetickets as kft

# 1,797 handwritten digits of 8x8 pixels; 400 of them are for testing.
x, y = load_digits(return_X_y=True)
x = x.astype("float32") / 16
x, x_test, y, y_test = train_test_split(x, y, test_size=400, random_state=0)


def trained(seed):
    """A network with a tenth of its weights."""
    keras.utils.set_random_seed(seed)
    dense = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model = kft.sparsify(dense, sparsity=0.9, seed=seed)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, verbose=0)
    return model


# Three networks in a small file, in half precision.
ensemble = kft.EnsembleModel([trained(seed) for seed in range(3)])
ensemble.save_packed("ensemble.npz", dtype="float16")

# What follows needs NumPy, numba and the file, and no Keras.
predictor = kft.serving.SparsePredictor.load("ensemble.npz")
mean, members = predictor.predict_with_members(x_test)
accuracy = np.mean(mean.argmax(-1) == y_test)
print(f"accuracy of three networks: {accuracy:.3f}")
print(f"weights of all three: {predictor.active:,}")

# Where members disagree, a prediction is in doubt.
disagreement = members.std(axis=0).max(-1)
wrong = mean.argmax(-1) != y_test
print(f"disagreement on right answers: {disagreement[~wrong].mean():.3f}")
print(f"disagreement on wrong answers: {disagreement[wrong].mean():.3f}")

# One example takes the same call.
print(f"the first digit: {predictor.predict(x_test[:1]).argmax()}")
