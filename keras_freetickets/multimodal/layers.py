"""Gaussian latents and modalities that may be missing."""

import typing

import keras
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.types import Config
from keras_freetickets.types import Shape
from keras_freetickets.types import Tensor
from keras_freetickets.types import Tensors

# Logarithms of variances are clipped, so that neither a standard deviation
# below 0.02 nor one above 7.4 makes gradients explode.
LOG_VARIANCES = (-8.0, 4.0)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class GaussianSample(keras.layers.Layer):
    """Draws mean + standard deviation * noise, in training and prediction.

    Args:
        noise: Non-negative float, standard deviation of the noise. 1 (default)
            samples the distribution; 0 returns the mean.
        seed: Integer, or `None` for a random one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: List of means and logarithms of variances, `(batch, size)`
            each. The latter are clipped to [-8, 4].

    Raises:
        ValueError: If `noise` is negative.

    Example:

    ```python
    h = GaussianSample()([mean, log_variance])
    ```

    Reference:
        Kingma and Welling, 2014, arXiv:1312.6114.
    """

    def __init__(
        self,
        noise: float = 1.0,
        seed: int | None = None,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("noise", noise, "[0, inf)")
        self.noise = noise
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Tensors) -> Tensor:
        mean, log_variance = inputs
        deviation = ops.exp(0.5 * ops.clip(log_variance, *LOG_VARIANCES))
        noise = keras.random.normal(
            ops.shape(mean), dtype=mean.dtype, seed=self.generator
        )
        return mean + self.noise * deviation * noise

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return input_shape[0]

    def get_config(self) -> Config:
        return {**super().get_config(), "noise": self.noise, "seed": self.seed}


def gaussian_divergence(
    mean: Tensor,
    log_variance: Tensor,
    prior_mean: Tensor | float = 0.0,
    prior_deviation: float = 1.0,
) -> Tensor:
    """Kullback-Leibler divergence of normal distributions, in nats.

    Args:
        mean: Means `(batch, size)`.
        log_variance: Logarithms of the variances, clipped to [-8, 4].
        prior_mean: Means of the prior, `(batch, size)` or a number.
        prior_deviation: Positive float, the prior's standard deviation.

    Returns:
        Tensor `(batch,)`, the sum over the last axis.

    Example:

    >>> float(gaussian_divergence(ops.ones((1, 3)), ops.zeros((1, 3)))[0])
    1.5
    """
    mean = ops.convert_to_tensor(mean)
    log_variance = ops.clip(ops.cast(log_variance, mean.dtype), *LOG_VARIANCES)
    squares = ops.exp(log_variance) + ops.square(mean - prior_mean)
    ratio = squares / prior_deviation**2
    logs = log_variance - 2 * ops.log(ops.cast(prior_deviation, mean.dtype))
    return 0.5 * ops.sum(ratio - 1 - logs, axis=-1)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class KLDivergence(keras.layers.Layer):
    """Returns its first input, and adds the divergence of a latent to the loss.

    The loss grows by beta times the mean over the batch of the divergence of
    N(mean, variance) from N(prior mean, prior_deviation^2).

    Args:
        beta: Non-negative float, initial value of the weight `beta`, a
            variable that `KLRamp` changes.
        prior_deviation: Positive float, standard deviation of the prior.
            Defaults to 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: List of a tensor to return, means and logarithms of variances
            `(batch, size)`, and optionally means of the prior. Without these
            the prior's mean is 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    z = KLDivergence(beta=0.05)([z, mean, log_variance])
    ```
    """

    def __init__(
        self,
        beta: float = 1.0,
        prior_deviation: float = 1.0,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("beta", beta, "[0, inf)")
        check_number("prior_deviation", prior_deviation, "(0, inf)")
        self.initial_beta = beta
        self.prior_deviation = prior_deviation

    def build(self, input_shape: list[Shape]) -> None:
        self.beta = self.add_weight(
            name="beta",
            shape=(),
            initializer=keras.initializers.Constant(self.initial_beta),
            trainable=False,
        )
        self.built = True

    def call(self, inputs: Tensors) -> Tensor:
        passed, mean, log_variance, *prior = inputs
        divergence = gaussian_divergence(
            mean,
            log_variance,
            prior[0] if prior else 0.0,
            self.prior_deviation,
        )
        self.add_loss(self.beta * ops.mean(divergence))
        return passed

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return input_shape[0]

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "beta": self.initial_beta,
            "prior_deviation": self.prior_deviation,
        }


@keras.saving.register_keras_serializable(package="keras_freetickets")
class DropModalities(keras.layers.Layer):
    """Drops whole modalities at random in training, never all of an example.

    Args:
        rate: Float in [0, 1), probability of each modality to be dropped. If
            all of an example would be, all that are present stay.
        seed: Integer, or `None` for a random one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Presence `(batch, modalities)`: 1 for a modality that is there,
            0 for one that is missing.
        training: Whether to drop.

    Raises:
        ValueError: If `rate` is out of range.

    Example:

    ```python
    presence = DropModalities(0.2)(presence)
    ```
    """

    def __init__(
        self,
        rate: float,
        seed: int | None = None,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("rate", rate, "[0, 1)")
        self.rate = rate
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not training:
            return inputs
        draws = keras.random.uniform(
            ops.shape(inputs), dtype=inputs.dtype, seed=self.generator
        )
        kept = inputs * ops.cast(draws >= self.rate, inputs.dtype)
        some = ops.sum(kept, axis=-1, keepdims=True) > 0
        return ops.where(some, kept, inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


class KLRamp(keras.callbacks.Callback):
    """Raises the weight of the divergences from 0 in the first epochs.

    Args:
        beta: Non-negative float, the weight after the ramp. Defaults to 0.05
            for standardized pixels whose squared errors are summed; twice the
            variance of a pixel's noise would be the exact bound.
        epochs: Positive integer, the length of the ramp; a fifth of the
            training is a good choice. Epoch e has beta * e / epochs.

    Raises:
        ValueError: If an argument is out of range or, when training begins,
            the model has no `KLDivergence`.

    Example:

    ```python
    model.fit(x, y, epochs=150, callbacks=[KLRamp(beta=0.05, epochs=30)])
    ```
    """

    def __init__(self, beta: float = 0.05, epochs: int = 30) -> None:
        super().__init__()
        check_number("beta", beta, "[0, inf)")
        check_count("epochs", epochs)
        self.beta = beta
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: typing.Any = None) -> None:
        found = [
            layer
            for layer in self.model.layers
            if isinstance(layer, KLDivergence)
        ]
        if not found:
            raise ValueError(
                "KLRamp needs a model with layers of the class KLDivergence, "
                "such as `multimodal.inva` makes. Received: a model of "
                f"{len(self.model.layers)} other layers"
            )
        for layer in found:
            layer.beta.assign(self.beta * min(1.0, epoch / self.epochs))
