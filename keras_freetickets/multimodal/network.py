"""InVA: one outcome image from several input images of the same subject."""

import math
import typing
from collections.abc import Sequence

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.arguments import check_boolean
from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.multimodal.layers import DropModalities
from keras_freetickets.multimodal.layers import GaussianSample
from keras_freetickets.multimodal.layers import KLDivergence
from keras_freetickets.types import Config
from keras_freetickets.types import Tensor

# Layers that `sparsify(model, 0.8, filters=MASKED)` masks: all but the heads.
MASKED = ("hidden", "image")
# Images of more pixels than this have convolutional encoders and decoders.
_DENSE_PIXELS = 64 * 64


@keras.saving.register_keras_serializable(package="keras_freetickets")
class SumOfSquares(keras.losses.Loss):
    """Squared error summed over pixels, averaged over the batch.

    Args:
        reduction: As for `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As for `keras.losses.Loss`.

    Example:

    >>> loss = SumOfSquares()
    >>> float(loss([[1.0, 2.0]], [[0.0, 0.0]]))
    5.0
    """

    def __init__(
        self,
        reduction: str = "sum_over_batch_size",
        name: str = "sum_of_squares",
        dtype: typing.Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_pred = ops.convert_to_tensor(y_pred)
        errors = ops.square(ops.cast(y_true, y_pred.dtype) - y_pred)
        return ops.sum(errors, axis=tuple(range(1, len(errors.shape))))


def inva(
    image_shapes: Sequence[tuple[int, ...]],
    target_shape: tuple[int, ...],
    latent_size: int = 8,
    hidden: Sequence[int] = (64, 64),
    shared_encoder: bool = True,
    prior_through_z: bool = False,
    missing: bool = False,
    drop_rate: float = 0.2,
    beta: float = 0.05,
    noise: float = 1.0,
    seed: int | None = None,
) -> keras.Model:
    """A hierarchical variational autoencoder for image-on-image regression.

    Image k has an encoder of its own to a latent h_k, and one encoder that all
    images share maps each h_k to a deeper latent z_k. The outcome is decoded
    from all latents, and image k from h_k and z_k. The decoders, sizes and
    weights are choices of this package: no code of the paper was found.

    Standardize images by training statistics (`PixelScaler`). The model
    returns the outcome, then the reconstructed images: train it with
    `compile_inva` and targets `[y, *images]`.

    Args:
        image_shapes: Shape of each modality, `(height, width, channels)` or
            any other, at least one.
        target_shape: Shape of the outcome.
        latent_size: Positive integer, size of each h_k and z_k. 8 suits a toy,
            16 to 64 real images.
        hidden: Units of the hidden layers of encoders and decoders. Images of
            more than 64 x 64 pixels have two convolutions of stride 2 before
            them, and after the decoder's, if their shape has 3 numbers and
            sides that 4 divides.
        shared_encoder: Whether one encoder makes all z_k, as in InVA. False
            gives each image its own, the rival without sharing.
        prior_through_z: Whether the prior of h_k is N(a(z_k), 1) with a linear
            map a, instead of N(0, 1).
        missing: Whether modalities may be missing. The model then has one
            more input, last: the presence `(batch, modalities)`, 1 or 0. What
            is given for a missing image is not used.
        drop_rate: Float in [0, 1), rate at which `missing` drops modalities
            in training. Defaults to 0.2.
        beta: Non-negative float, weight of the divergences; see `KLRamp`.
            Defaults to 0.05.
        noise: Non-negative float, standard deviation of the noise of latents:
            1 (default), or 0 for an autoencoder without noise.
        seed: Integer from which the noise is drawn, or `None`.

    Returns:
        Functional Keras model from a list of images (and the presence) to a
        list of the outcome and the images. `sparsify` with
        `filters=MASKED` masks all layers but the heads of the latents.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    model = inva([(16, 16, 1), (16, 16, 1)], (16, 16, 1))
    model = kft.sparsify(model, 0.8, filters=kft.multimodal.MASKED)
    compile_inva(model)
    model.fit([x1, x2], [y, x1, x2], callbacks=[KLRamp()])
    ```

    Reference:
        Lei et al., 2024, arXiv:2402.02734 (encoders). Latents of two levels
        with Gaussian posteriors; the rest as said above.
    """
    shapes = [_checked_shape("image_shapes", shape) for shape in image_shapes]
    if not shapes:
        raise ValueError(
            "`image_shapes` must hold the shape of at least one modality. "
            f"Received: image_shapes={image_shapes}"
        )
    target_shape = _checked_shape("target_shape", target_shape)
    check_count("latent_size", latent_size)
    for units in hidden:
        check_count("hidden", units)
    for name, value in (
        ("shared_encoder", shared_encoder),
        ("prior_through_z", prior_through_z),
        ("missing", missing),
    ):
        check_boolean(name, value)
    check_number("drop_rate", drop_rate, "[0, 1)")
    builder = _Builder(latent_size, hidden, beta, noise, seed)
    inputs = [
        keras.Input(shape, name=f"modality_{k}")
        for k, shape in enumerate(shapes)
    ]
    shared = builder.deep_encoder("shared") if shared_encoder else None
    latents = []
    for k, image in enumerate(inputs):
        deep = shared or builder.deep_encoder(f"deep_{k}")
        latents.append(builder.latents(k, image, deep, prior_through_z))
    images = [
        builder.decoder(f"decoder_{k}", shape)(pair)
        for k, (shape, pair) in enumerate(zip(shapes, latents, strict=True))
    ]
    if missing:
        presence = keras.Input((len(shapes),), name="presence")
        kept = DropModalities(drop_rate, builder.next_seed())(presence)
        latents = [
            _Keep(k, name=f"keep_{k}")([pair, kept])
            for k, pair in enumerate(latents)
        ]
        latents.append(kept)
        inputs.append(presence)
    together = latents[0]
    if len(latents) > 1:
        together = keras.layers.Concatenate(name="latents")(latents)
    target = builder.decoder("outcome", target_shape)(together)
    return keras.Model(inputs, [target, *images])


def compile_inva(
    model: keras.Model,
    optimizer: typing.Any = None,
    image_weight: float = 0.2,
    **kwargs: typing.Any,
) -> None:
    """Compiles a model of `inva` with its loss.

    Args:
        model: What `inva` or `sparsify` returned.
        optimizer: Optimizer; `None` (default) for Adam with the learning rate
            0.001.
        image_weight: Non-negative float, weight of the squared errors of the
            reconstructed images, relative to those of the outcome. Defaults to
            0.2: they keep the latents about the images when examples are few.
        **kwargs: More arguments of `model.compile`.

    Raises:
        ValueError: If `image_weight` is negative.

    Example:

    ```python
    compile_inva(model, keras.optimizers.Adam(3e-4))
    ```
    """
    check_number("image_weight", image_weight, "[0, inf)")
    count = len(model.outputs)
    model.compile(
        optimizer or keras.optimizers.Adam(1e-3),
        [SumOfSquares() for _ in range(count)],
        loss_weights=[1.0] + [image_weight] * (count - 1),
        **kwargs,
    )
    keras_adapter.build_training(model)


def outcome_model(model: keras.Model) -> keras.Model:
    """The part of a model of `inva` that predicts the outcome.

    Args:
        model: What `inva` or `sparsify` returned.

    Returns:
        Keras model with the same inputs and weights, and one output.

    Example:

    ```python
    y = outcome_model(model).predict([x1, x2])  # one sample of the latents
    ```
    """
    return keras.Model(model.inputs, model.outputs[0])


def _checked_shape(name, shape):
    shape = tuple(shape)
    for size in shape:
        check_count(name, size)
    if not shape:
        raise ValueError(
            f"`{name}` must hold shapes of images. Received: {name}={shape}"
        )
    return shape


@keras.saving.register_keras_serializable(package="keras_freetickets")
class _Keep(keras.layers.Layer):
    """Sets the latents of a missing modality to 0."""

    def __init__(self, index: int, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)
        self.index = index

    def call(self, inputs: typing.Any) -> Tensor:
        latents, presence = inputs
        return latents * presence[:, self.index, None]

    def compute_output_shape(self, input_shape: typing.Any) -> typing.Any:
        return input_shape[0]

    def get_config(self) -> Config:
        return {**super().get_config(), "index": self.index}


class _Builder:
    """Makes the parts of the network."""

    def __init__(self, size, hidden, beta, noise, seed):
        self.size, self.hidden, self.beta = size, tuple(hidden), beta
        self.noise, self.seed = noise, seed

    def next_seed(self):
        if self.seed is not None:
            self.seed += 1
        return self.seed

    def _dense(self, name):
        return [
            keras.layers.Dense(units, "relu", name=f"{name}_hidden_{i}")
            for i, units in enumerate(self.hidden)
        ]

    def deep_encoder(self, name):
        """The encoder from h to z, called once for each image."""
        layers = self._dense(name)
        mean = keras.layers.Dense(self.size, name=f"{name}_mean")
        spread = keras.layers.Dense(self.size, name=f"{name}_log_variance")

        def encode(x):
            for layer in layers:
                x = layer(x)
            return mean(x), spread(x)

        return encode

    def latents(self, k, image, deep, prior_through_z):
        """Samples of h_k and z_k, joined; their divergences are added."""
        x = self._features(f"encoder_{k}", image)
        for layer in self._dense(f"encoder_{k}"):
            x = layer(x)
        mean = keras.layers.Dense(self.size, name=f"encoder_{k}_mean")(x)
        spread = keras.layers.Dense(
            self.size, name=f"encoder_{k}_log_variance"
        )(x)
        h = GaussianSample(self.noise, self.next_seed(), name=f"h_{k}")(
            [mean, spread]
        )
        deep_mean, deep_spread = deep(h)
        z = GaussianSample(self.noise, self.next_seed(), name=f"z_{k}")(
            [deep_mean, deep_spread]
        )
        z = KLDivergence(self.beta, name=f"kl_z_{k}")(
            [z, deep_mean, deep_spread]
        )
        prior = []
        if prior_through_z:
            prior = [keras.layers.Dense(self.size, name=f"prior_{k}_mean")(z)]
        h = KLDivergence(self.beta, name=f"kl_h_{k}")([h, mean, spread, *prior])
        return keras.layers.Concatenate(name=f"latents_{k}")([h, z])

    def _features(self, name, image):
        if _is_large(image.shape[1:]):
            for i, filters in enumerate((16, 32)):
                image = keras.layers.Conv2D(
                    filters,
                    3,
                    strides=2,
                    padding="same",
                    activation="relu",
                    name=f"{name}_hidden_convolution_{i}",
                )(image)
        return keras.layers.Flatten(name=f"{name}_flatten")(image)

    def decoder(self, name, shape):
        def decode(x):
            for layer in self._dense(name):
                x = layer(x)
            if not _is_large(shape):
                x = keras.layers.Dense(math.prod(shape), name=f"{name}_image")(
                    x
                )
                return keras.layers.Reshape(shape, name=f"{name}_reshape")(x)
            height, width, channels = shape
            small = (height // 4, width // 4, 32)
            x = keras.layers.Dense(
                math.prod(small), "relu", name=f"{name}_hidden_small"
            )(x)
            x = keras.layers.Reshape(small, name=f"{name}_reshape")(x)
            x = keras.layers.Conv2DTranspose(
                16, 3, 2, "same", activation="relu", name=f"{name}_hidden_up"
            )(x)
            return keras.layers.Conv2DTranspose(
                channels, 3, 2, "same", name=f"{name}_image"
            )(x)

        return decode


def _is_large(shape):
    large = len(shape) == 3 and math.prod(shape[:2]) > _DENSE_PIXELS
    return large and shape[0] % 4 == 0 and shape[1] % 4 == 0
