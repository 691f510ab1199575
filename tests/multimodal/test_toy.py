"""What InVA promises on its toy, over seeds that were fixed beforehand."""

import keras
import numpy as np
import pytest

import keras_freetickets as kft
from keras_freetickets import metrics
from keras_freetickets import multimodal

SEEDS = (0, 1, 2)
EPOCHS = 150
SAMPLES = 40

pytestmark = pytest.mark.slow


def standardized(seed):
    """260 subjects to train, 40 to validate, 100 to test."""
    data = multimodal.toy_modalities(400, seed=seed)
    scalers = [multimodal.PixelScaler(one[:260]) for one in data.images]
    scaler = multimodal.PixelScaler(data.outcome[:260])
    pairs = zip(scalers, data.images, strict=True)
    data = multimodal.Modalities(
        [one(images) for one, images in pairs], scaler(data.outcome)
    )
    parts = slice(0, 260), slice(260, 300), slice(300, None)
    return [data.part(one) for one in parts], scaler


def trained(train, seed, modalities, sparsity=0.0):
    keras.utils.set_random_seed(seed)
    images = [train.images[k] for k in modalities]
    model = multimodal.inva(
        [one.shape[1:] for one in images], train.outcome.shape[1:], seed=seed
    )
    callbacks = [multimodal.KLRamp(0.05, EPOCHS // 5)]
    if sparsity:
        filters = multimodal.MASKED
        model = kft.sparsify(model, sparsity, filters=filters, seed=seed)
        callbacks.append(kft.callbacks.RigL(update_interval=30))
    multimodal.compile_inva(model)
    model.fit(
        images,
        [train.outcome, *images],
        batch_size=32,
        epochs=EPOCHS,
        callbacks=callbacks,
        verbose=0,
    )
    return model


def predicted(models, valid, test, modalities=(0, 1)):
    known = [valid.images[k] for k in modalities]
    new = [test.images[k] for k in modalities]
    noise = multimodal.residual_variance(models, known, valid.outcome, SAMPLES)
    return multimodal.predict_images(models, new, noise, SAMPLES)


def pmse(found, test, scaler):
    errors = scaler.back(found.mean) - scaler.back(test.outcome)
    return np.square(errors).mean()


def test_both_modalities_beat_either_and_intervals_cover():
    errors, covered = [], []
    for seed in SEEDS:
        (train, valid, test), scaler = standardized(seed)
        row = []
        for modalities in ((0,), (1,), (0, 1)):
            model = trained(train, seed, modalities)
            found = predicted(model, valid, test, modalities)
            row.append(pmse(found, test, scaler))
        errors.append(row)
        ends = np.concatenate([found.lower, found.upper], axis=-1)
        coverage = metrics.IntervalCoverage()
        covered.append(float(coverage(test.outcome, ends)))
    *single, both = np.mean(errors, axis=0)
    assert both < min(single) / 2
    assert all(0.9 <= one <= 0.99 for one in covered)


def test_pooled_tickets_are_not_worse_than_their_mean():
    for seed in SEEDS:
        (train, valid, test), scaler = standardized(seed)
        tickets = [
            trained(train, 100 * seed + i, (0, 1), sparsity=0.8)
            for i in range(3)
        ]
        alone = [
            pmse(predicted([one], valid, test), test, scaler) for one in tickets
        ]
        pooled = predicted(tickets, valid, test)
        assert pmse(pooled, test, scaler) <= np.mean(alone)
        assert (pooled.between > 0).all()
