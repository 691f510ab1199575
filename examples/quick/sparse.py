"""Train one sparse network: 90 % of its weights are missing from the start.

python examples/quick/sparse.py
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_freetickets as kft

# 1,797 handwritten digits of 8x8 pixels; 400 of them are for testing.
x, y = load_digits(return_X_y=True)
x = x.astype("float32") / 16
x, x_test, y, y_test = train_test_split(x, y, test_size=400, random_state=0)

# Any Functional or Sequential model will do. This one is dense.
keras.utils.set_random_seed(0)
dense = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)

# RigL removes the smallest weights now and then, and grows as many where the
# gradient is large. How often depends on the length of the training: here it
# is 20 epochs of 44 batches.
training = kft.recipes.sparse_training(
    "rigl", sparsity=0.9, epochs=20, steps_per_epoch=44
)

# The sparse copy of the network: compile and fit it like any Keras model.
model = kft.sparsify(dense, **training.sparsify_arguments)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=20, verbose=0, callbacks=training.callbacks)

# Which layers were made sparse, and how sparse each of them is.
kft.sparsity_summary(model)
scores = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
print(f"accuracy with a tenth of the weights: {scores['accuracy']:.3f}")

# Without this package's classes: an ordinary Keras model with zeros in it.
kft.strip(model).save("sparse.keras")
