"""A small convolutional network that trains in seconds on two cores."""

from collections.abc import Sequence

import keras

from keras_freetickets.types import Shape


def small_cnn(
    input_shape: Shape,
    classes: int,
    filters: Sequence[int] = (32, 64),
    units: int = 128,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    """Builds a small convolutional network.

    Each entry of `filters` is a 3x3 convolution, batch normalization, ReLU
    and 2x2 max pooling; a dense layer and the classifier follow.

    Args:
        input_shape: Shape of one image; height and width at least
            2 ** len(filters).
        classes: Integer, number of classes.
        filters: Tuple of integers, output channels of the convolutions.
        units: Integer, width of the dense layer.
        dropout: Float in [0, 1), the dropout rate before the classifier.
        weight_decay: Float, factor of the L2 penalty of every weight; 0 for
            none.
        classifier_activation: Activation of the last layer; `None` for
            logits.

    Returns:
        A Functional model.

    Example:

    ```python
    small_cnn((8, 8, 1), 10, filters=(16, 32), units=64)
    ```
    """
    layers = keras.layers
    penalty = keras.regularizers.L2(weight_decay) if weight_decay else None
    both = {"kernel_regularizer": penalty}
    inputs = x = keras.Input(input_shape)
    for i, count in enumerate(filters):
        x = layers.Conv2D(
            count,
            3,
            padding="same",
            use_bias=False,
            name=f"conv_{i}",
            **both,
        )(x)
        x = layers.BatchNormalization(
            momentum=0.9,
            gamma_regularizer=penalty,
            beta_regularizer=penalty,
        )(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    both["bias_regularizer"] = penalty
    x = layers.Dense(units, activation="relu", name="hidden", **both)(x)
    if dropout:
        x = layers.Dropout(dropout)(x)
    outputs = layers.Dense(
        classes, activation=classifier_activation, name="classifier", **both
    )(x)
    return keras.Model(inputs, outputs, name="small_cnn")
