import math

from keras_freetickets.applications import lenet_300_100


def test_kernels_of_lenet_300_100():
    model = lenet_300_100((28, 28, 1), 10)
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    # 784 x 300 + 300 x 100 + 100 x 10.
    shapes = [tuple(v.shape) for v in kernels]
    assert shapes == [(784, 300), (300, 100), (100, 10)]
    assert sum(map(math.prod, shapes)) == 266_200
