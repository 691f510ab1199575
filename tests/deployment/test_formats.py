import keras
import numpy as np
import pytest

from keras_freetickets.deployment import formats


def test_names():
    assert formats.names() == [
        "keras",
        "saved_model",
        "litert",
        "onnx",
        "openvino",
    ]
    with pytest.raises(ValueError, match=r"`format` must be one of \["):
        formats.get("coreml")


def test_every_format_says_why_not():
    for name in formats.names():
        kind = formats.get(name)
        assert set(kind.dtypes) | set(kind.refused) == set(formats.DTYPES)
        assert not set(kind.dtypes) & set(kind.refused)


def test_inputs_by_name():
    specs = [
        keras.InputSpec(shape=(None, 1), name=name)
        for name in ("image", "image_of_depth", "text")
    ]
    arrays = [np.full((2, 1), i) for i in range(3)]
    keys = ["text:0", "image_of_depth", "image:0"]
    found = formats.by_name(keys, specs, arrays)
    assert [one[0, 0] for one in found] == [2, 1, 0]
    (single,) = formats.by_name(["anything"], specs[:1], arrays[:1])
    assert single is arrays[0]
