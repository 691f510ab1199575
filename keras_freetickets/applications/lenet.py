"""LeNet-300-100, the classic fully connected network for digits."""

import keras

from keras_freetickets.types import Shape


def lenet_300_100(
    input_shape: Shape = (28, 28, 1),
    classes: int = 10,
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    """Builds LeNet-300-100.

    Args:
        input_shape: Tuple, the shape of one image without the batch axis.
        classes: Integer, number of classes.
        classifier_activation: Activation of the last layer; `None` for
            logits.

    Returns:
        A Functional model with kernels (inputs, 300), (300, 100) and
        (100, classes).

    Example:

    ```python
    lenet_300_100((28, 28, 1)).count_params()  # 266610
    ```

    Reference:
        LeCun et al., "Gradient-based learning applied to document
        recognition", 1998.
    """
    inputs = keras.Input(input_shape)
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(300, activation="relu")(x)
    x = keras.layers.Dense(100, activation="relu")(x)
    outputs = keras.layers.Dense(classes, activation=classifier_activation)(x)
    return keras.Model(inputs, outputs, name="lenet_300_100")
