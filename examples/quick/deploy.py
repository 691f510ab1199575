"""Write an ensemble of sparse networks for a device, in a small file.

python examples/quick/deploy.py
"""

import keras
from sklearn.datasets import load_digits

import keras_freetickets as kft

# 1,797 handwritten digits of 8x8 pixels; the last 400 are for testing.
x, y = load_digits(return_X_y=True)
x = x.astype("float32") / 16
x, y, x_test, y_test = x[:-400], y[:-400], x[-400:], y[-400:]


# Three networks that have a tenth of their weights, trained apart.
def ticket(seed):
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(256, activation="relu") for _ in range(2)]
    last = keras.layers.Dense(10, activation="softmax")
    dense = keras.Sequential([keras.Input((64,)), *hidden, last])
    model = kft.sparsify(dense, sparsity=0.9)
    model.compile("adam", "sparse_categorical_crossentropy")
    rigl = kft.callbacks.RigL(update_interval=40)
    model.fit(x, y, epochs=20, verbose=0, callbacks=[rigl])
    return model


ensemble = kft.EnsembleModel([ticket(seed) for seed in range(3)])

# One call writes the file, loads it and compares predictions. The same from a
# shell: python -m keras_freetickets export run/ensemble.npz run/digits.keras
report = kft.export(ensemble, "run/digits.keras", overwrite=True)

# It is an ordinary Keras model, a third of the size of one dense network each.
served = keras.models.load_model("run/digits.keras")
accuracy = (served.predict(x_test, verbose=0).argmax(-1) == y_test).mean()
print(f"three tickets from the file: accuracy {accuracy:.3f}")
print(
    f"of the size of one dense network: {report.bytes / report.dense_bytes:.2f}"
)

# Phones and boards run LiteRT, which TensorFlow converts to: here in half
# precision, and with 8 bits, whose ranges are chosen by examples.
if keras.backend.backend() == "tensorflow":
    settings = {"overwrite": True, "representative_data": x[:200]}
    for dtype in ("float16", "int8"):
        path = f"run/digits_{dtype}.tflite"
        kft.export(ensemble, path, dtype=dtype, **settings)

# The smallest file, for this package alone.
ensemble.save_packed("run/ensemble.npz", dtype="float16")
