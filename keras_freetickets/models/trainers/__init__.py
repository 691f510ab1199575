"""The training step of each Keras backend, chosen when first needed."""

import keras


def get_trainer():
    """Returns the module that implements the step on this backend.

    Raises:
        RuntimeError: If the backend has no trainer yet.
    """
    if keras.backend.backend() == "tensorflow":
        from keras_freetickets.models.trainers import tensorflow

        return tensorflow
    raise RuntimeError(
        "Sparse training runs on the TensorFlow backend. "
        f"Received: KERAS_BACKEND={keras.backend.backend()!r}; set "
        "KERAS_BACKEND=tensorflow. Building, predicting and EnsembleModel "
        "work on every backend."
    )
