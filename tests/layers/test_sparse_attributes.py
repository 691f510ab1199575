"""`Sparse` has the attributes of the layer that it wraps."""

import copy
import pickle
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.layers import Sparse


def built(layer, shape=(2, 8)):
    sparse = Sparse(layer, 0.5, seed=0)
    sparse(np.ones(shape, "float32"))
    return sparse


def test_what_users_reach_for():
    dense = built(layers.Dense(3, activation="relu", name="hidden"))
    assert dense.units == 3 and dense.activation is keras.activations.relu
    assert dense.kernel is dense.layer.kernel is dense.masked_kernels[0].kernel
    assert dense.bias is dense.layer.bias
    conv = built(layers.Conv2D(4, 3), (1, 5, 5, 2))
    assert (conv.filters, conv.kernel_size) == (4, (3, 3))
    lstm = built(layers.LSTM(4), (1, 5, 2))
    assert lstm.units == 4 and lstm.cell is lstm.layer.cell
    assert repr(dense) == "<Sparse(Dense) name=hidden, built=True>"


def test_what_is_set_works():
    dense = built(layers.Dense(3, activation="relu"))
    x = np.full((2, 8), -1.0, "float32")
    dense.kernel.assign(np.ones((8, 3)))
    assert not np.any(dense(x))
    dense.activation = keras.activations.linear
    assert np.all(np.array(dense(x)) == -8.0)
    # Names of its own, and new ones, are the wrapper's.
    dense.state, dense.remark = {}, "mine"
    assert dense.remark == "mine" and not hasattr(dense.layer, "remark")


class Named(layers.Layer):
    """A layer that has arguments of the wrapper, and assets."""

    sparse_kernels = ("w",)

    def __init__(self, sparsity=7, seed=8, **kwargs):
        super().__init__(**kwargs)
        self.sparsity, self.seed, self.state = sparsity, seed, "its own"

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 2), name="w")

    def call(self, x):
        return x @ self.w

    def save_assets(self, folder):
        with open(f"{folder}/words.txt", "w") as file:
            file.write("words")

    def load_assets(self, folder):
        with open(f"{folder}/words.txt") as file:
            self.words = file.read()


def test_the_wrappers_own_arguments_stay():
    sparse = built(Named())
    assert (sparse.sparsity, sparse.seed, sparse.state) == (0.5, 0, {})
    assert (sparse.layer.sparsity, sparse.layer.seed) == (7, 8)
    assert sparse.layer.state == "its own" and sparse.w is sparse.layer.w


def test_what_is_missing_is_said_by_name():
    dense = Sparse(layers.Dense(3), 0.5)
    with pytest.raises(AttributeError, match=r"'Dense' object .* 'filters'"):
        _ = dense.filters
    with pytest.raises(
        AttributeError, match=r"build the layer before .*kernel"
    ):
        _ = dense.kernel
    with pytest.raises(AttributeError, match=r"'Sparse' .* '_hidden'"):
        _ = dense._hidden
    # An error of a property of the wrapper is not hidden by the layer's.
    with pytest.raises(AttributeError, match=f"{dense.name} has never been"):
        _ = dense.output


def model():
    inputs = keras.Input((8,))
    x = Sparse(layers.Dense(4, name="hidden"), 0.5)(inputs)
    return kft.SparseModel(inputs, Sparse(Named(name="own"), 0.5)(x))


def arrays(path):
    """Names of the arrays of the `Sparse` layers in a file."""
    found = []
    with h5py.File(path) as file:
        file.visit(found.append)
        found = [name for name in found if isinstance(file[name], h5py.Dataset)]
    return sorted(name for name in found if name.startswith("layers/sparse"))


def test_files_hold_everything_once(tmp_path):
    """And by the names that they had: Keras saves what `dir` lists."""
    sparse = model()
    sparse.save_weights(tmp_path / "model.weights.h5")
    assert arrays(tmp_path / "model.weights.h5") == [
        "layers/sparse/layer/vars/0",
        "layers/sparse/layer/vars/1",
        "layers/sparse/vars/0",
        "layers/sparse_1/layer/vars/0",
        "layers/sparse_1/vars/0",
    ]
    sparse.save(tmp_path / "model.keras")
    names = zipfile.ZipFile(tmp_path / "model.keras").namelist()
    assert sum("words.txt" in name for name in names) == 1
    loaded = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"Named": Named}
    )
    assert loaded.get_layer("own").words == "words"
    assert loaded.get_layer("hidden").units == 4


@pytest.mark.parametrize(
    "again",
    [
        lambda model: pickle.loads(pickle.dumps(model)),
        copy.deepcopy,
        keras.models.clone_model,
        lambda model: kft.SparseModel.from_config(model.get_config()),
    ],
    ids=["pickle", "deepcopy", "clone", "config"],
)
def test_copies_have_their_own_layers(again):
    with keras.saving.custom_object_scope({"Named": Named}):
        mine = model()
        other = again(mine)
    one, two = mine.get_layer("hidden"), other.get_layer("hidden")
    assert two.units == 4 and two.kernel is two.layer.kernel
    assert two.kernel is not one.kernel
    assert [v.path for v in other.weights] == [v.path for v in mine.weights]


def test_weights_are_tracked_once():
    dense = built(layers.Dense(3))
    assert [w.name for w in dense.weights] == ["kernel_mask", "kernel", "bias"]
    assert len(dense.trainable_weights) == 2
    assert len({id(w) for w in model().weights}) == len(model().weights)
    assert dense.count_params() == 8 * 3 + 3


def test_recomputed_activations():
    """RematScope replaces `activation` of what has one, and puts it back."""
    x = np.linspace(-1, 1, 16, dtype="float32").reshape(2, 8)
    dense = built(layers.Dense(3, activation="relu"))
    with keras.RematScope(mode="activations"):
        again = built(layers.Dense(3, activation="relu"))
        again.kernel.assign(dense.kernel.value)
        np.testing.assert_allclose(again(x), dense(x), atol=1e-6)
    assert again.activation is keras.activations.relu
