"""InVA as tickets of one EDST run, and as an `EnsembleModel`."""

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets import multimodal

RANDOM = np.random.default_rng(0)
SHAPE = (4, 4, 1)
X = [RANDOM.normal(size=(12, *SHAPE)).astype("float32") for _ in range(2)]
Y = X[0] * X[1]


def sparse(noise=1.0):
    keras.utils.set_random_seed(0)
    dense = multimodal.inva([SHAPE, SHAPE], SHAPE, 3, (8,), noise=noise, seed=0)
    model = kft.sparsify(dense, 0.5, filters=multimodal.MASKED, seed=0)
    multimodal.compile_inva(model)
    return model


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    """Tickets of one run, which sample no latents: their noise is 0."""
    directory = tmp_path_factory.mktemp("tickets")
    edst = kft.callbacks.EDST(
        exploration_epochs=2,
        refinement_epochs=2,
        num_tickets=2,
        update_interval=1,
        monitor=None,
        directory=directory,
    )
    sparse(noise=0.0).fit(
        X, [Y, *X], epochs=edst.epochs, callbacks=[edst], verbose=0
    )
    paths = [directory / f"ticket_{i}.keras" for i in range(2)]
    return [keras.saving.load_model(path) for path in paths]


def test_an_ensemble_splits_variance_as_its_tickets_do(tickets):
    ensemble = kft.EnsembleModel(
        [multimodal.outcome_model(one) for one in tickets], pooling="mean"
    )
    found = multimodal.predict_images(tickets, X, num_samples=3)
    same = multimodal.predict_images(ensemble, X, num_samples=3)
    for name in ("mean", "within", "between"):
        np.testing.assert_allclose(
            getattr(same, name), getattr(found, name), rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(found.within, 0, atol=1e-10)
    known = ensemble.predict_uncertainty(X)
    np.testing.assert_allclose(found.between, known["variance"], rtol=1e-4)
    np.testing.assert_allclose(
        found.mean, ensemble.predict(X, verbose=0), rtol=1e-4, atol=1e-6
    )
    assert found.between.min() >= 0 and found.between.mean() > 1e-6


def test_an_ensemble_samples_its_members_latents(tmp_path):
    members = [multimodal.outcome_model(sparse()) for _ in range(2)]
    ensemble = kft.EnsembleModel(members, pooling="mean")
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    for one in (ensemble, loaded):
        noise = multimodal.residual_variance(one, X, Y, 4)
        found = multimodal.predict_images(one, X, noise, 4)
        assert found.within.mean() > 1e-4
        assert found.mean.shape == Y.shape


def test_all_outputs_make_no_ensemble(tickets, tmp_path):
    with pytest.raises(ValueError, match="one output each"):
        kft.EnsembleModel(tickets, pooling="mean")
    # A recipe says so before it trains.
    dense = kft.recipes.Dense(num_members=1, epochs=1)
    with pytest.raises(ValueError, match=r"one output.*3 outputs"):
        dense.fit(
            lambda seed: multimodal.inva([SHAPE, SHAPE], SHAPE, 3, (8,)),
            multimodal.compile_inva,
            {"x": X, "y": [Y, *X]},
            tmp_path,
            verbose=0,
            pooling="mean",
        )
    assert not list(tmp_path.rglob("*.keras"))
