import keras
import numpy as np
import pytest
from keras import ops

from keras_freetickets import data

ROWS = np.eye(3, dtype="int32")[[2, 0]]


@pytest.mark.parametrize("backend", [np, ops], ids=["numpy", "ops"])
@pytest.mark.parametrize(
    "labels", [[2, 0], [[2], [0]], ROWS], ids=["integers", "column", "one_hot"]
)
def test_class_labels(labels, backend):
    labels = backend.asarray(labels) if backend is np else np.array(labels)
    found = data.class_labels(labels, (2, 3), backend)
    np.testing.assert_array_equal(found, [2, 0])


def test_labels_without_a_column_for_the_unknown():
    """Predictions of four classes, the last one for the unknown."""
    assert not data.is_one_hot(ROWS, (2, 4))
    found = data.class_labels(ROWS, (2, 4), np, optional_columns=1)
    np.testing.assert_array_equal(found, [2, 0])
    # One column is a column of labels, also where there are two outputs.
    found = data.class_labels(np.array([[1], [0]]), (2, 2), np, 1)
    np.testing.assert_array_equal(found, [1, 0])


def test_batches_as_arrays():
    x, y = np.array([[1.0], [2.0]]), np.array([0, 1])
    batches = [({"a": x[:1]}, y[:1]), ({"a": x[1:]}, y[1:], "weight")]
    x, y = data.as_arrays(iter(batches))
    np.testing.assert_array_equal(x["a"], [[1.0], [2.0]])
    np.testing.assert_array_equal(y, [0, 1])
    assert data.as_arrays("x", "y") == ("x", "y")


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros(3), "`y` must be given with arrays. Received: y=None"),
        (iter([]), "`x` must hold examples. Received: no batches"),
        (iter([np.zeros(3)]), "Received: batches of type ndarray"),
    ],
)
def test_no_labels(x, message):
    with pytest.raises(ValueError, match=message):
        data.as_arrays(x)


@pytest.mark.parametrize("x, y", [([], []), ([1], []), ([1], [1, 2])])
def test_examples_without_labels(x, y):
    with pytest.raises(ValueError, match=f"{len(x)} inputs and {len(y)} lab"):
        data.check_examples(x, y)


def test_input_specs():
    first, second = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    model = keras.Model({"a": first, "b": second}, first)
    specs = data.input_specs(model)
    assert {k: (s.name, s.shape) for k, s in specs.items()} == {
        "a": ("a", (None, 2)),
        "b": ("b", (None, 3)),
    }
    (one,) = keras.tree.flatten(data.input_specs(keras.Model(first, first)))
    assert one.name == "inputs" and one.shape == (None, 2)
