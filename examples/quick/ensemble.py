"""Train three sparse networks in one run, and predict with all of them.

python examples/quick/ensemble.py
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_freetickets as kft

# 1,797 handwritten digits of 8x8 pixels: 1,200 to train, 197 to choose the
# best epoch of each network by, 400 to test.
x, y = load_digits(return_X_y=True)
x = x.astype("float32") / 16
x, x_test, y, y_test = train_test_split(x, y, test_size=400, random_state=0)


# A recipe makes and compiles the networks itself, so it asks for functions.
def make_model(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def compile_model(model):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")


# EDST explores for some epochs, then refines one network after another. Other
# recipes, kft.recipes.names(), take the same functions.
recipe = kft.recipes.get(
    "edst",
    sparsity=0.7,
    num_members=3,
    exploration_epochs=10,
    refinement_epochs=5,
    update_interval=30,
    monitor="val_loss",
)
data = {"x": x[:1200], "y": y[:1200], "validation_data": (x[1200:], y[1200:])}
ensemble = recipe.fit(
    make_model, compile_model, data, directory="run/edst", verbose=0
)

# The ensemble averages the members' probabilities. It is a Keras model, and
# its negative log-likelihood (NLL) is never above the members' mean.
for i, member in enumerate(ensemble.predict_members(x_test)):
    accuracy = (member.argmax(axis=-1) == y_test).mean()
    nll = kft.metrics.negative_log_likelihood(y_test, member)
    print(f"member {i}: accuracy {accuracy:.3f}, NLL {keras.ops.mean(nll):.3f}")
scores = ensemble.evaluate(x_test, y_test, verbose=0, return_dict=True)
print(f"ensemble: accuracy {scores['accuracy']:.3f}, NLL {scores['nll']:.3f}")
ensemble.save("ensemble.keras")
