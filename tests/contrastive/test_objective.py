"""The contrastive loss, its queue and its scale."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets.contrastive import Contrastive
from keras_freetickets.contrastive import LearnedScale
from keras_freetickets.contrastive import MaskedTokens
from keras_freetickets.contrastive.objective import contrastive_loss

needs_a_step = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="has no training step"
)


def entropy(logits):
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.mean(np.diag(log_p))


def vectors(count=5, dimensions=4):
    generator = np.random.default_rng(0)
    texts = generator.normal(size=(count, dimensions))
    images = generator.normal(size=(count, dimensions))
    images /= np.linalg.norm(images, axis=-1, keepdims=True)
    return texts.astype("float32"), images.astype("float32")


def test_both_directions_by_hand():
    texts, images = vectors()
    logits = texts @ images.T
    expected = entropy(logits) + entropy(logits.T)
    found = contrastive_loss(texts, images, np.zeros((0, 4), "float32"), 0.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_both_terms_are_equal_for_symmetric_logits():
    _, images = vectors()
    texts = 3.0 * images  # their products are symmetric
    found = contrastive_loss(texts, images, np.zeros((0, 4), "float32"), 0.0)
    assert float(found) == pytest.approx(
        2 * entropy(texts @ images.T), rel=1e-5
    )


def test_a_queue_has_wrong_answers_for_texts_alone():
    texts, images = vectors()
    queue = np.concatenate([images[::-1], np.full((3, 4), 9.0, "float32")])
    logits = texts @ images.T
    longer = np.concatenate([logits, texts @ queue[:5].T], axis=1)
    expected = entropy(longer) + entropy(logits.T)
    # Five of the eight rows are there; the others are not looked at.
    found = contrastive_loss(texts, images, queue, 5.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_scale():
    layer = LearnedScale(initial=10.0)
    found = ops.convert_to_numpy(layer(vectors()[0]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 10, rtol=1e-5)
    layer.log_scale.assign(10.0)
    assert float(layer.scale) == 100.0
    copy = LearnedScale.from_config(layer.get_config())
    assert (copy.initial, copy.maximum) == (10.0, 100.0)
    with pytest.raises(ValueError, match="`initial`"):
        LearnedScale(initial=200.0)
    with pytest.raises(ValueError, match="`maximum`"):
        LearnedScale(maximum=0.0)


def towers(documents=False):
    keras.utils.set_random_seed(0)
    left = keras.Input((6,), name="text")
    right = keras.Input((6,), name="image")
    texts = LearnedScale(10.0)(layers.Dense(4)(left))
    images = layers.UnitNormalization()(layers.Dense(4)(right))
    inputs = {"text": left, "image": right}
    outputs = [texts, images]
    if documents:
        tokens = keras.Input((5,), name="documents", dtype="int32")
        words = layers.Embedding(12, 8)(tokens)
        inputs["documents"] = tokens
        outputs.append(layers.Dense(12)(words))
    model = kft.sparsify(keras.Model(inputs, outputs), 0.3, seed=1)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def pairs(count=12):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(count, 6)).astype("float32")
    return {"text": x, "image": -x}


@needs_a_step
@pytest.mark.parametrize("eagerly", [False, True])
def test_the_queue_holds_the_newest_images(eagerly):
    model = towers()
    model.run_eagerly = eagerly
    model.set_objective(Contrastive(4, queue_length=7))
    state = model.update_state.state
    seen, x = [], pairs()
    for i in range(3):
        batch = {name: one[4 * i : 4 * i + 4] for name, one in x.items()}
        _, images = model(batch, training=True)
        seen.append(ops.convert_to_numpy(images))
        model.train_on_batch(batch)
        queue = ops.convert_to_numpy(state["contrastive_queue"].value)
        expected = np.concatenate(seen[::-1])[:7]
        assert queue.shape == (7, 4)
        np.testing.assert_allclose(queue[: len(expected)], expected, atol=1e-6)
        filled = float(state["contrastive_filled"].numpy())
        assert filled == min(4 * (i + 1), 7)
    model.run.restart_scalar_state()
    assert float(state["contrastive_filled"].numpy()) == 0.0
    assert not ops.convert_to_numpy(state["contrastive_queue"].value).any()


@needs_a_step
def test_it_learns_pairs_and_stays_sparse():
    model = towers()
    model.set_objective(Contrastive(4, queue_length=8))
    history = model.fit(pairs(), epochs=30, batch_size=6, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 0.5
    for masked in model.masked_kernels:
        outside = masked.kernel_array()[~masked.mask_array()]
        np.testing.assert_array_equal(outside, 0.0)


@needs_a_step
def test_masked_tokens_are_half_of_the_loss():
    model = towers(documents=True)
    model.set_objective(Contrastive(4))
    transform = MaskedTokens(12, 1, first_token=2, probability=0.5)
    model.add_batch_transform(transform)
    generator = np.random.default_rng(2)
    # Fewer documents than pairs.
    batch = {**pairs(), "documents": generator.integers(2, 12, (7, 5))}
    tokens, targets = transform.hidden(batch["documents"], 0)
    tokens = ops.convert_to_numpy(tokens)
    texts, images, logits = model({**batch, "documents": tokens})
    contrast = contrastive_loss(texts, images, np.zeros((0, 4), "float32"), 0.0)
    language = kft.contrastive.masked_token_loss(targets, logits)
    expected = (float(contrast) + float(language)) / 2
    loss = model.train_on_batch(batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@needs_a_step
def test_another_length_of_the_queue():
    model = towers()
    model.set_objective(Contrastive(4, queue_length=3))
    model.train_on_batch(pairs())
    model.set_objective(Contrastive(4, queue_length=5))
    model.train_on_batch(pairs())
    assert model.update_state.state["contrastive_queue"].shape == (5, 4)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`dimensions`"):
        Contrastive(0)
    with pytest.raises(ValueError, match="`queue_length`"):
        Contrastive(4, queue_length=-1)
    with pytest.raises(ValueError, match="`from_logits`"):
        Contrastive(4, from_logits=False)
    config = Contrastive(4, 6).get_config()
    assert Contrastive.from_config(config).queue_length == 6


@needs_a_step
def test_models_that_do_not_fit():
    model = towers()
    model.set_objective(Contrastive(5))
    with pytest.raises(ValueError, match=r"outputs \[texts, images\].*5"):
        model.train_on_batch(pairs())
    model = towers()
    model.set_objective(Contrastive(4))
    with pytest.raises(ValueError, match="`sample_weight` must be None"):
        model.train_on_batch(pairs(), sample_weight=np.ones(12))
    model = towers(documents=True)
    model.set_objective(Contrastive(4))
    with pytest.raises(ValueError, match="needs labels: add a"):
        model.train_on_batch({**pairs(), "documents": np.ones((12, 5), int)})
