"""Prediction without Keras: NumPy, numba and a packed file.

Importing this imports none of Keras, TensorFlow, JAX and numba.
"""

from keras_freetickets.serving.predictor import SparsePredictor

__all__ = ["SparsePredictor"]
