import io

import numpy as np
import pytest
from PIL import Image

from keras_freetickets import datasets
from keras_freetickets.datasets import CORRUPTIONS
from keras_freetickets.datasets import corrupt
from keras_freetickets.datasets import corrupt_dataset
from keras_freetickets.datasets import distortions

tf = pytest.importorskip("tensorflow")

# By the published parameters: motion blur has the same at 3 and 4 but for a
# length of which nothing is seen, glass blur and elastic transform take other
# kinds of change in turns, frost darkens the image as it gets thicker.
RISING = sorted(
    set(CORRUPTIONS)
    - {"motion_blur", "glass_blur", "elastic_transform", "frost"}
)


def _images(size=28, channels=1, count=24):
    """Blobs with edges on a slope, and some grain."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    images = []
    for _ in range(count):
        i, j, r = generator.uniform(0.3, 0.7, 3)
        colors = generator.uniform(0.2, 0.8, (2, channels))
        inside = ((rows - i) ** 2 + (columns - j) ** 2 < (r / 2) ** 2)[
            ..., None
        ]
        image = np.where(inside, colors[0], colors[1] * rows[..., None])
        grain = generator.normal(0, 0.05, image.shape)
        images.append(np.clip(image + grain, 0, 1))
    return np.rint(255 * np.array(images)).astype("uint8")


GREY, COLOR = _images(), _images(32, 3)


def _distance(images, corruption, severity):
    changed = corrupt(images, corruption, severity)
    return np.mean((changed / 255 - images / 255) ** 2)


def test_the_fifteen_of_the_paper():
    assert len(CORRUPTIONS) == 15
    assert all(len(v[1]) == 5 for v in distortions.DISTORTIONS.values())


@pytest.mark.parametrize("images", [GREY, COLOR], ids=["grey", "color"])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_shape_type_and_change(corruption, images):
    before = images.copy()
    for severity in (1, 5):
        changed = corrupt(images, corruption, severity)
        assert changed.shape == images.shape and changed.dtype == np.uint8
        assert (changed != images).any()
        # Recognizable still: nearer to its image than to another.
        own = np.mean((changed.astype(float) - images) ** 2)
        other = np.mean((changed.astype(float) - images[::-1]) ** 2)
        assert own < other
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("images", [GREY, COLOR], ids=["grey", "color"])
@pytest.mark.parametrize("corruption", RISING)
def test_severity_rises(corruption, images):
    distances = [_distance(images, corruption, s) for s in range(1, 6)]
    assert (np.diff(distances) > 0).all()


@pytest.mark.parametrize("corruption", ["motion_blur", "frost", "glass_blur"])
def test_the_ends_of_the_others(corruption):
    low, high = (_distance(COLOR, corruption, s) for s in (1, 5))
    assert low < high


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_same_whatever_the_batches(corruption):
    whole = corrupt(COLOR, corruption, 3, seed=1)
    parts = [
        corrupt(COLOR[:5], corruption, 3, seed=1),
        corrupt(COLOR[5:], corruption, 3, seed=1, first_index=5),
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    "corruption",
    sorted(
        set(CORRUPTIONS)
        - {
            "defocus_blur",
            "zoom_blur",
            "brightness",
            "contrast",
            "pixelate",
            "jpeg_compression",
        }
    ),
)
def test_random_ones_follow_the_seed(corruption):
    first, second = (corrupt(GREY, corruption, 5, seed=s) for s in (0, 1))
    assert (first != second).any()
    # Images of one set differ in their noise.
    same = np.repeat(GREY[:1], 2, axis=0)
    one, other = corrupt(same, corruption, 5)
    assert (one != other).any()


def test_noise_by_its_moments():
    grey = np.full((50, 32, 32, 1), 128, "uint8")

    def spread(corruption, severity):
        return (corrupt(grey, corruption, severity) / 255).std()

    assert spread("gaussian_noise", 5) == pytest.approx(0.10, rel=0.02)
    # Poisson: the variance of x is x / c.
    expected = np.sqrt(128 / 255 / 50)
    assert spread("shot_noise", 5) == pytest.approx(expected, rel=0.02)
    salted = corrupt(grey, "impulse_noise", 5)
    assert (salted != 128).mean() == pytest.approx(0.07, abs=0.005)
    assert (salted == 255).mean() == pytest.approx(0.035, abs=0.004)


def test_contrast_and_brightness_by_hand():
    image = np.zeros((1, 16, 16, 3), "uint8")
    image[0, :8] = [200, 100, 0]
    # Means 100, 50, 0; 0.4 of the distance to them is left at severity 3.
    changed = corrupt(image, "contrast", 3)
    np.testing.assert_array_equal(changed[0, 0, 0], [140, 70, 0])
    np.testing.assert_array_equal(changed[0, 15, 0], [60, 30, 0])
    # 0.1 more of value: 225.5 instead of 200, the hue as it was.
    changed = corrupt(image, "brightness", 2)
    np.testing.assert_allclose(changed[0, 0, 0], [225.5, 112.75, 0], atol=1)
    np.testing.assert_allclose(changed[0, 15, 0], [25.5] * 3, atol=1)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("images", [GREY, COLOR], ids=["grey", "color"])
def test_pixelate_and_jpeg_against_pillow(images, severity):
    size = images.shape[1]
    small = int(size * [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1])
    quality = [80, 65, 58, 50, 40][severity - 1]
    changed = {
        name: corrupt(images[:6], name, severity).astype(int)
        for name in ("pixelate", "jpeg_compression")
    }
    for i, image in enumerate(images[:6]):
        picture = Image.fromarray(image.squeeze())
        boxed = picture.resize((small,) * 2, Image.BOX)
        boxed = boxed.resize((size,) * 2, Image.BOX)
        boxed = np.asarray(boxed).reshape(image.shape)
        # Pillow rounds between its two passes.
        assert np.abs(changed["pixelate"][i] - boxed).max() <= 1
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        coded = np.asarray(Image.open(file)).reshape(image.shape)
        # Equal here; two builds of libjpeg may round otherwise.
        assert np.abs(changed["jpeg_compression"][i] - coded).max() <= 1


def _dataset(images, batch_size):
    labels = np.arange(len(images))
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    return data.batch(batch_size)


@pytest.mark.parametrize(
    "corruption", ["fog", "shot_noise", "jpeg_compression"]
)
def test_dataset(corruption):
    expected = corrupt(GREY, corruption, 4, seed=3)
    for batch_size in (7, 24):
        data = corrupt_dataset(
            _dataset(GREY, batch_size), corruption, 4, seed=3
        )
        for _ in range(2):
            batches = list(data.as_numpy_iterator())
            images = np.concatenate([batch[0] for batch in batches])
            labels = np.concatenate([batch[1] for batch in batches])
            np.testing.assert_array_equal(images, expected)
            np.testing.assert_array_equal(labels, np.arange(24))


def test_standardized_dataset():
    class Like:
        mean, std = (0.3, 0.4, 0.5), (0.2, 0.1, 0.3)

    standard = (COLOR / 255 - Like.mean) / Like.std
    standard = standard.astype("float32")
    data = corrupt_dataset(_dataset(standard, 10), "snow", 2, like=Like)
    assert data.element_spec[0].shape == (None, 32, 32, 3)
    images = np.concatenate([x for x, _ in data.as_numpy_iterator()])
    expected = (corrupt(COLOR, "snow", 2) / 255 - Like.mean) / Like.std
    np.testing.assert_allclose(images, expected, atol=1e-5)
    raw = _dataset((COLOR / 255).astype("float32"), 10)
    images = next(iter(corrupt_dataset(raw, "snow", 2)))[0]
    np.testing.assert_allclose(
        images, corrupt(COLOR[:10], "snow", 2) / 255, atol=1e-6
    )


def test_standardized_images_without_their_statistics():
    data = corrupt_dataset(_dataset(GREY / 85.0, 8), "fog", 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="images in"):
        list(data)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"corruption": "rain"}, "`corruption` must be one of"),
        ({"severity": 0}, "`severity` must be an integer from 1 to 5"),
        ({"severity": 6}, "`severity` must be an integer from 1 to 5"),
        ({"severity": 1.0}, "`severity` must be an integer from 1 to 5"),
        ({"severity": True}, "`severity` must be an integer from 1 to 5"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
        ({"images": GREY / 255}, "`images` must have the dtype uint8"),
        ({"images": GREY[:, :8, :8]}, "size of 16 or more"),
        ({"images": GREY[:, :20]}, "must have the shape"),
        ({"images": GREY[0]}, "must have the shape"),
        ({"images": COLOR[..., :2]}, "must have the shape"),
    ],
)
def test_bad_input(change, message):
    arguments = {"images": GREY, "corruption": "fog", "severity": 1, **change}
    with pytest.raises(ValueError, match=message):
        corrupt(**arguments)


def test_bad_dataset():
    with pytest.raises(ValueError, match="must have the shape"):
        corrupt_dataset(_dataset(GREY[:, :8, :8], 8), "fog", 1)


def test_no_images():
    assert corrupt(GREY[:0], "fog", 1).shape == (0, 28, 28, 1)
    assert set(datasets.__all__) >= {"corrupt", "corrupt_dataset"}
