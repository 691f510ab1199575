"""What `summary` and `count_params` of models say: weights, no masks."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft


def sparse():
    """784 * 4 + 4 + 4 * 100 + 100 = 3,640 weights; 1,768 connections of them.

    Half of both kernels: 1,568 and 200.
    """
    dense = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(4, activation="relu", name="hidden"),
            layers.Dense(100, activation="softmax", name="head"),
        ],
        name="net",
    )
    return kft.sparsify(dense, 0.5, "uniform")


def shown(model, **kwargs):
    lines = []
    model.summary(print_fn=lines.append, **kwargs)
    return "\n".join(lines)


def count(text, what):
    return int(re.search(rf"{what} params: ([\d,]+)", text)[1].replace(",", ""))


def test_masks_are_no_parameters():
    model = sparse()
    text = shown(model)
    assert count(text, "Total") == count(text, "Trainable") == 3640
    assert count(text, "Non-trainable") == 0
    assert " Active params: 1,872 of 3,640; masks are not counted" in text
    assert "hidden (Sparse(Dense))" in text and "head (Sparse(Dense))" in text
    assert "3,140" in text and "500" in text  # of the layers
    assert model.count_params() == 3640
    assert model.get_layer("hidden").count_params() == 3140


def test_it_is_printed_and_nothing_is_returned(capsys):
    assert sparse().summary() is None
    printed = capsys.readouterr().out
    assert printed.count("Model:") == printed.count("Active params") == 1


def test_what_a_run_leaves_is_no_parameter():
    """States of connections, and the optimizer's slots in their own line."""
    model = sparse()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.run.track_ever_active()
    model.optimizer.build(model.trainable_variables)
    model.attach(kft.topology.DSTEE())
    assert model.masked_kernels[0].state.keys() >= {"ever_active", "visits"}
    text = shown(model, show_trainable=True)
    assert count(text, "Trainable") == model.count_params() == 3640
    assert count(text, "Optimizer") == 2 * 3640 + 2
    assert count(text, "Active") == 1872


def test_nested_models_and_shared_layers():
    inputs = keras.Input((784,))
    net = sparse()
    both = layers.Concatenate()([net(inputs), net(inputs)])
    outer = kft.SparseModel(inputs, layers.Dense(2)(both + 1.0))
    text = shown(outer, expand_nested=True)
    assert count(text, "Total") == outer.count_params() == 3640 + 402
    assert text.count("(Sparse(Dense))") == 2 and "Connected to" in text
    assert "hidden" not in shown(outer)


class Own(kft.SparseModel):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        sparse = kft.layers.Sparse(layers.Dense(3), 0.5)
        self.each = layers.TimeDistributed(sparse, name="each")

    def call(self, inputs):
        return self.each(inputs)


def test_a_class_of_ones_own():
    model = Own()
    text = shown(model)
    assert "unbuilt" in text and "Active" not in text
    model(np.ones((2, 4, 6), "float32"))
    text = shown(model)
    # The wrapper's row counts no masks either; counters have no row.
    assert re.search(r"each \(TimeDistributed\) .* 21 ", text)
    assert "Topology" not in text and count(text, "Total") == 21
    assert count(text, "Active") == 9 + 3


def test_ensembles_show_their_members(tmp_path):
    members = [sparse(), sparse()]
    for member in members:
        member.run.track_ever_active()
    ensemble = kft.EnsembleModel(members, name="both")
    ensemble.save(tmp_path / "both.keras")
    for model in (ensemble, keras.saving.load_model(tmp_path / "both.keras")):
        text = shown(model)
        assert 'Ensemble "both" of 2 members like this:' in text
        assert "hidden (Sparse(Dense))" in text
        assert model.count_params() == 2 * 3640
        *_, last = text.splitlines()
        assert last.startswith(" Active params: 3,744 of 7,280")
    x, y = np.random.default_rng(0).normal(size=(200, 784)), np.arange(200)
    text = shown(kft.calibration.calibrate(ensemble, x, y % 100))
    assert count(text, "Total") == 7280 + 1  # and the temperature
    assert count(text, "Active") == 3744 + 1


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="does not train sparse models"
)
def test_members_side_by_side():
    models = [sparse(), sparse()]
    for model in models:
        model.compile("sgd", "sparse_categorical_crossentropy")
    together = kft.SideBySide(models)
    assert together.count_params() == 2 * 3640
    text = shown(together)
    assert count(text, "Trainable") == 2 * 3640
    assert count(text, "Non-trainable") == 0
    assert count(text, "Active") == 2 * 1872


def test_dense_members_count_as_keras_counts():
    dense = [kft.strip(sparse()) for _ in range(2)]
    ensemble = kft.EnsembleModel(dense)
    assert ensemble.count_params() == 2 * dense[0].count_params()
    text = shown(ensemble)
    assert "hidden (Dense)" in text and count(text, "Active") == 7280


def test_arguments_of_keras_go_through():
    text = shown(sparse(), layer_range=["head", "head"])
    assert "head" in text and "hidden" not in text
    with pytest.raises(ValueError, match="layer_range"):
        shown(sparse(), layer_range=["head"])
