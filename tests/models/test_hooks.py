"""Effective kernels in predictions, and transforms of batches."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets.topology import Method
from keras_freetickets.trainers.step_variant import StepVariant

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="has no training step"
)


@keras.saving.register_keras_serializable(package="test_hooks")
class Signs(Method):
    """Kernels of -a, 0 and a in every pass: BWN on a sparse mask."""

    effective_at_inference = True

    def forward_kernels(self, views):
        return [signs(view.kernel, view.mask) for view in views]


class SignsInTraining(Signs):
    effective_at_inference = False


def signs(kernel, mask):
    count = ops.sum(ops.cast(mask, "float32"))
    return ops.sign(kernel) * ops.sum(ops.abs(kernel)) / count


def network(**compiled):
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(2)]
    )
    model = kft.sparsify(dense, 0.5, "uniform", seed=1)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", **compiled)
    return model


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(12, 6)).astype("float32")
    return x, x[:, :2] * 2.0


def by_hand(model, x):
    first, last = (
        np.asarray(signs(m.kernel.value, m.mask.value))
        for m in model.masked_kernels
    )
    biases = [np.asarray(la.layer.bias) for la in model.sparse_layers]
    hidden = np.maximum(x @ first + biases[0], 0.0)
    return hidden @ last + biases[1]


def kernels_of(model):
    return [np.array(m.kernel) for m in model.masked_kernels]


@pytest.mark.parametrize("eagerly", [False, True])
def test_effective_kernels_predict_and_evaluate(eagerly):
    x, y = data()
    model = network(run_eagerly=eagerly)
    dense = model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)  # compiled before the method is attached
    model.attach(Signs(100))
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    before = kernels_of(model)
    expected = by_hand(model, x)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )
    loss = model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(np.mean((expected - y) ** 2), rel=1e-4)
    for kernel, old in zip(kernels_of(model), before, strict=True):
        np.testing.assert_array_equal(kernel, old)
    assert not np.allclose(dense, expected)


def test_effective_kernels_stay_when_training_ends():
    x, y = data()
    model = network()
    callback = kft.callbacks.DropAndGrow(Signs(2))
    model.fit(x, y, epochs=3, validation_data=(x, y), callbacks=[callback])
    assert model.method is None
    expected = by_hand(model, x)
    found = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    own = kernels_of(model)
    plain = kft.strip(model)
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )
    for kernel, old in zip(kernels_of(model), own, strict=True):
        np.testing.assert_array_equal(kernel, old)


def test_an_ensemble_is_made_of_stripped_members():
    model = network()
    model.attach(Signs())
    with pytest.raises(ValueError, match=r"strip\(member\).*of Signs"):
        kft.EnsembleModel([model, model])
    plain = kft.strip(model)
    x, _ = data()
    ensemble = kft.EnsembleModel([plain, plain], pooling="mean")
    np.testing.assert_allclose(
        np.asarray(ensemble.predict_members(x))[0],
        by_hand(model, x),
        rtol=1e-5,
    )


def test_side_by_side_refuses_effective_kernels():
    together = kft.SideBySide([network(), network()])
    with pytest.raises(ValueError, match="method=Signs"):
        together.attach(Signs())


def test_effective_kernels_of_a_loaded_model(tmp_path):
    x, _ = data()
    model = network()
    model.attach(Signs(100))
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "signs.keras")
    loaded = keras.models.load_model(tmp_path / "signs.keras")
    found = loaded.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert loaded.method is None


def test_another_method_predicts_with_the_kernels_themselves():
    x, _ = data()
    model = network()
    plain = model.predict(x, verbose=0)
    for method in (SignsInTraining(100), Method(100)):
        model.attach(Signs(100))
        assert not np.allclose(model.predict(x, verbose=0), plain)
        model.attach(method)
        np.testing.assert_array_equal(model.predict(x, verbose=0), plain)


def test_transforms_run_in_order_and_see_the_step():
    x, y = data()
    model = network()
    steps = []

    def doubled(x, y, sample_weight, step):
        assert sample_weight is None
        return x * 2.0, y, ops.ones_like(y[:, 0])

    def shifted(x, y, sample_weight, step):
        steps.append(step)
        assert sample_weight is not None
        return x + ops.cast(step, "float32"), y, sample_weight

    model.add_batch_transform(doubled)
    model.add_batch_transform(shifted)
    expected = network()
    for count in range(3):
        expected.train_on_batch(x * 2.0 + count, y)
        model.train_on_batch(x, y)
    for one, other in zip(kernels_of(model), kernels_of(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert steps


def test_a_transform_takes_part_at_once_and_outlives_compile():
    x, y = data()
    model = network()
    model.train_on_batch(x, y)
    before = kernels_of(model)

    def nothing_to_learn(x, y, sample_weight, step):
        return x, y, ops.zeros_like(y[:, 0])

    model.add_batch_transform(nothing_to_learn)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.train_on_batch(x, y)
    for kernel, old in zip(kernels_of(model), before, strict=True):
        np.testing.assert_array_equal(kernel, old)
    # Evaluation is on the data as they are.
    y_pred = model.predict(x, verbose=0)
    loss = model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(np.mean((y_pred - y) ** 2), rel=1e-4)


def test_transforms_may_change_the_number_of_examples():
    x, y = data()
    model = network()
    model.add_batch_transform(
        lambda x, y, sample_weight, step: (
            ops.concatenate([x, x]),
            ops.concatenate([y, -y]),
            sample_weight,
        )
    )
    expected = network()
    model.train_on_batch(x, y)
    expected.train_on_batch(np.concatenate([x, x]), np.concatenate([y, -y]))
    for one, other in zip(kernels_of(model), kernels_of(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_bad_transforms():
    x, y = data()
    model = network(run_eagerly=True)
    with pytest.raises(ValueError, match=r"callable.*Received: transform=3"):
        model.add_batch_transform(3)
    model.add_batch_transform(lambda x, y, sample_weight, step: (x, y))
    with pytest.raises(ValueError, match="must return a tuple"):
        model.fit(x, y, verbose=0)


class Doubled:
    """A scope that is visible while a step is traced."""

    inside = 0

    def __enter__(self):
        Doubled.inside += 1

    def __exit__(self, *error):
        Doubled.inside -= 1


def double(x, y, sample_weight, step):
    assert Doubled.inside
    return 2.0 * x, y, sample_weight


DOUBLED = StepVariant("doubled", Doubled, double, updates_topology=False)


@pytest.mark.parametrize("eagerly", [False, True])
def test_steps_of_two_kinds_take_turns(eagerly):
    """A variant trains as the model itself does on what it transforms."""
    x, y = data()
    model, other = (network(run_eagerly=eagerly) for _ in range(2))
    functions = set()
    for i in range(6):
        odd = i % 2 == 1
        model.run.use_variant(DOUBLED if odd else None)
        loss = model.train_on_batch(x, y)
        expected = other.train_on_batch(2.0 * x if odd else x, y)
        assert float(loss) == float(expected)
        functions.add(id(model.train_function))
    assert len(functions) == 2 and Doubled.inside == 0
    for a, b in zip(kernels_of(model), kernels_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_variant_may_leave_the_topology_alone():
    x, y = data()
    model = network()
    model.attach(kft.topology.SNFS(update_interval=2))
    before = [m.mask_array() for m in model.masked_kernels]
    state = [
        np.array(v) for m in model.masked_kernels for v in m.state.values()
    ]
    model.run.use_variant(DOUBLED)
    for _ in range(5):
        model.train_on_batch(x, y)
    for masked, mask in zip(model.masked_kernels, before, strict=True):
        np.testing.assert_array_equal(masked.mask_array(), mask)
    assert int(model.update_state.update_count.numpy()) == 0
    after = [v for m in model.masked_kernels for v in m.state.values()]
    assert after
    for old, new in zip(state, after, strict=True):
        np.testing.assert_array_equal(old, new)
    model.run.use_variant(None)
    model.train_on_batch(x, y)
    assert int(model.update_state.update_count.numpy()) == 1
