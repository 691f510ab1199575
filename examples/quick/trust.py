"""Ask an ensemble how sure it is: of a classification and of a regression.

python examples/quick/trust.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_freetickets as kft


# Three networks, each trained on a random sample of the examples (bagging).
def bagged(outputs, activation, loss, x, y):
    def make_model(seed):
        keras.utils.set_random_seed(seed)
        hidden = keras.layers.Dense(64, activation="relu")
        last = keras.layers.Dense(outputs, activation=activation)
        return keras.Sequential([keras.Input(x.shape[1:]), hidden, last])

    def compile_model(model):
        model.compile("adam", loss)

    recipe = kft.recipes.get(
        "dense", num_members=3, epochs=15, learning_rate=None, monitor=None
    )
    data = kft.recipes.bootstrap(x, y)
    return recipe.fit(make_model, compile_model, data, f"run/{loss}", verbose=0)


# Digits: how wrong is the confidence, and what does the ensemble doubt?
x, y = load_digits(return_X_y=True)
x = x.astype("float32") / 16
loss = "sparse_categorical_crossentropy"
x, x_test, y, y_test = train_test_split(x, y, test_size=400, random_state=0)
digits = bagged(10, "softmax", loss, x, y)
error = kft.metrics.ExpectedCalibrationError(num_bins=15)
error.update_state(y_test, digits.predict(x_test, verbose=0))
print(f"confidence and accuracy differ by {float(error.result()):.3f}")

# Noise is not a digit: there the members have nothing to agree on.
noise = np.random.default_rng(0).uniform(size=(400, 64)).astype("float32")
for name, images in {"digits": x_test, "noise": noise}.items():
    found = digits.predict_uncertainty(images)
    disagreement = found["mutual_information"].mean()
    print(f"{name}: the members' disagreement is {disagreement:.3f} nats")

# A curve, known between -2 and 2 only: outside the members part.
points = np.linspace(-2, 2, 400, dtype="float32")[:, None]
curve = bagged(1, None, "mse", points, np.sin(3 * points))
for place in (0.0, 6.0):
    found = curve.predict_uncertainty(np.array([[place]], "float32"))
    mean, deviation = found["mean"].item(), found["variance"].item() ** 0.5
    print(f"at {place}: {mean:.2f}, standard deviation {deviation:.2f}")
