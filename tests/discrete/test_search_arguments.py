"""What a search refuses, by name."""

import keras
import numpy as np
import pytest
from chains import dense
from chains import examples

from keras_freetickets.discrete import CoordinateDescent
from keras_freetickets.discrete import search


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"values": (1,)}, "`values` must be 2 to 256 different finite"),
        ({"values": (0, 1, 1)}, "`values` must be"),
        ({"values": (0, float("nan"))}, "`values` must be"),
        ({"values": "ternary"}, "`values` must be"),
        ({"start": "zeros"}, "`start` must be one of"),
        ({"biases": "float"}, "`biases` must be one of"),
        ({"sweeps": 0}, "`sweeps` must be a positive integer"),
        ({"penalty": -1}, "`penalty` must be a non-negative number"),
        ({"screen": 1}, "`screen` must be True or False"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"target_loss": -1}, "`target_loss` must be"),
        ({"values": (-1, 1), "swaps": 3}, "`values` must have 0 where zeros"),
        ({"values": (-1, 1), "biases": "zero"}, "`values` must have 0 for"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        CoordinateDescent(**settings)


def test_values_without_zero_inside_a_mask():
    model = dense(hidden=())
    x, y = examples(model)
    mask = np.eye(5, 3, dtype=bool)
    with pytest.raises(ValueError, match="must have 0 inside a mask"):
        CoordinateDescent(values=(-1, 1)).fit(model, x, y, [mask])
    CoordinateDescent(values=(-1, 1), sweeps=1).fit(model, x, y)


WRONG_DATA = {
    "float labels": (lambda x, y: (x, y.astype(float)), "`y` must be an int"),
    "labels too large": (lambda x, y: (x, y + 1), "`y` must be an integer"),
    "one label less": (lambda x, y: (x, y[1:]), "`y` must be an integer"),
    "features": (lambda x, y: (x[:, 1:], y), "`x` must be an array of shape"),
    "NaN": (lambda x, y: (x * np.nan, y), "`x` must hold finite numbers"),
    "no examples": (lambda x, y: (x[:0], y[:0]), "`x` must be an array"),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data(case):
    model = dense()
    change, message = WRONG_DATA[case]
    with pytest.raises(ValueError, match=message):
        CoordinateDescent().fit(model, *change(*examples(model)))


@pytest.mark.parametrize(
    "masks",
    [
        [np.ones((5, 3))],
        [np.ones((3, 5), bool)],
        [],
        np.ones((5, 3), bool),
        [np.zeros((5, 3), bool)],
    ],
)
def test_wrong_masks(masks):
    model = dense(hidden=())
    with pytest.raises(ValueError, match="`masks` must"):
        CoordinateDescent(biases="zero").fit(model, *examples(model), masks)


def wrong_models():
    inputs = keras.Input((4,))
    one = keras.layers.Dense(4)(inputs)
    yield (
        "a branch",
        keras.Model(
            inputs, keras.layers.Dense(3)(keras.layers.Add()([one, inputs]))
        ),
    )
    layers = keras.layers
    for name, last in {
        "tanh": [layers.Dense(4, activation="tanh"), layers.Dense(3)],
        "normalization": [layers.BatchNormalization(), layers.Dense(3)],
        "one output": [layers.Dense(1)],
        "a ReLU at the end": [layers.Dense(3, activation="relu")],
        "after softmax": [layers.Softmax(), layers.Dense(3)],
        "nothing": [layers.Dropout(0.5)],
    }.items():
        yield name, keras.Sequential([keras.Input((4,)), *last])
    image = keras.Input((4, 4, 2))
    yield (
        "groups",
        keras.Sequential(
            [image, layers.Conv2D(2, 2, groups=2), layers.Flatten()]
        ),
    )
    yield "not flat", keras.Sequential([image, layers.Dense(3)])
    yield "pooled images", keras.Sequential([image, layers.MaxPooling2D()])


@pytest.mark.parametrize("name, model", list(wrong_models()))
def test_wrong_models(name, model):
    x, y = examples(model) if name != "nothing" else (np.ones((2, 4)), [0, 1])
    with pytest.raises(ValueError, match=r"`model` must.*Received: "):
        CoordinateDescent().fit(model, x, y)


def test_a_model_is_needed():
    with pytest.raises(TypeError, match="`model` must be a keras"):
        CoordinateDescent().fit("model", np.ones((2, 2)), np.array([0, 1]))


def test_without_numba_the_error_names_the_extra(monkeypatch):
    def missing(name):
        raise ImportError("pip install 'keras_freetickets[compressed]'")

    monkeypatch.setattr(search.importlib, "import_module", missing)
    model = dense()
    with pytest.raises(ImportError, match="compressed"):
        CoordinateDescent().fit(model, *examples(model))
