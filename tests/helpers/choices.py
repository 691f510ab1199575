"""What a backend chooses, for `test_backends.py` to compare.

As a script: `choices.py FILE` writes everything to an `.npz` file. What names
hold that differ in the first part alone (`plain/`, `graph/`, `xla/`) was done
one operation at a time, in a graph, and as one compiled program.
"""

import sys
import tempfile

import keras
import numpy as np
from keras import layers
from keras import ops

import keras_freetickets as kft
from keras_freetickets.topology import Method
from keras_freetickets.topology import RigL
from keras_freetickets.topology import kernel_view
from keras_freetickets.topology import random_bits
from keras_freetickets.topology import schedules
from keras_freetickets.trainers import update as updates

SHAPES = [(3, 3, 4, 8), (40, 30), (257,), (1, 1)]
UPDATES = 2
KINDS = ["normal", "ties", "zeros", "denormal", "huge", "not finite"]
METHODS = {
    "RigL": RigL(drop_fraction=0.3, seed=7),
    "random": Method(
        drop_fraction=0.8,
        drop="random",
        growth="random",
        regrown="reset",
        seed=2**31 - 1,
    ),
}
SCHEDULES = {
    "constant": schedules.Constant(0.3),
    "half parts": schedules.Constant(0.12345),
    "rigl": schedules.Cosine(0.3, 75_000),
    "itop": schedules.Cosine(0.5, 88_000, 0.005),
    # Halfway between two parts of 1/10,000 after 500 and 1,000 steps.
    "borderline": schedules.Cosine(0.3001, 1_000),
    "rising": schedules.Cosine(0.1, 3_000, 0.9),
    "cubic": schedules.InversePower(0.4, 75_000),
}


def modes():
    """Ways to run a function, by name."""
    if keras.backend.backend() == "jax":
        import jax

        return {"plain": lambda function: function, "xla": jax.jit}
    import tensorflow as tf

    return {
        "plain": lambda function: function,
        "graph": lambda f: tf.function(f, autograph=False),
        "xla": lambda f: tf.function(f, autograph=False, jit_compile=True),
    }


def scores(rng, kind, shape):
    """Scores of a kind that tempts an implementation to err."""
    normal = rng.normal(size=shape)
    if kind == "ties":
        normal = np.round(normal, 1)
    if kind == "zeros":
        normal = np.where(normal > 0, 0.0, -0.0)
    if kind == "denormal":
        normal = normal * 1e-42
    if kind == "huge":
        normal = np.sign(normal) * 3e38
    if kind == "not finite":
        bad = rng.choice([np.nan, np.inf, -np.inf], shape)
        normal = np.where(normal > 1.0, bad, normal)
    return normal.astype("float32")


def arrays_of(kind, update):
    rng = np.random.default_rng([KINDS.index(kind), update])
    gradients = [scores(rng, kind, shape) for shape in SHAPES]
    kernels = [scores(rng, kind, shape) for shape in SHAPES]
    return kernels, gradients


def first_masks():
    rng = np.random.default_rng(5)
    return [rng.random(shape) < 0.3 for shape in SHAPES]


def choice(method):
    """One update, with and without what gradients that are not finite do."""

    def choose(masks, kernels, gradients, number):
        inputs = updates.KernelBatch(
            [ops.where(m, k, 0.0) for m, k in zip(masks, kernels, strict=True)],
            masks,
            gradients,
            [{} for _ in masks],
            method.drop_fraction_at(number),
            number,
            number,
            ops.cast(method.seed, "int32"),
        )
        connections = inputs.views()
        pairs = method.update(connections, inputs.fraction)
        return pairs, updates.new_masks(method, inputs)

    return choose


def chosen_masks(choose, kind):
    """Masks after each of several updates, from arrays made by NumPy."""
    masks, made = first_masks(), []
    for update in range(UPDATES):
        arrays = [masks, *arrays_of(kind, update)]
        arrays = [list(map(ops.convert_to_tensor, group)) for group in arrays]
        number = ops.cast(update, "int32")
        pairs, (new, alive, share, done) = choose(*arrays, number)
        made += [mask for pair in pairs for mask in pair]
        made += [*new, *alive, share, done]
        masks = [np.logical_or(kept, grown) for kept, grown in pairs]
    return [ops.convert_to_numpy(array) for array in made]


def drop_counts(run, schedule):
    steps = ops.convert_to_tensor(
        np.r_[:2_000, 2_000:100_000:7].astype("int32")
    )
    ceil, floor = (
        run(
            lambda steps, rounding=rounding: kernel_view.fraction_of(
                10_000, schedule(steps), rounding
            )
        )(steps)
        for rounding in ("ceil", "floor")
    )
    return [ops.convert_to_numpy(ceil), ops.convert_to_numpy(floor)]


def bits(run):
    made = []
    for shape, layer in [((1000,), 0), ((3, 5, 7), 12), ((0, 2), 1)]:
        draw = run(
            lambda seed, update, shape=shape, layer=layer: random_bits(
                shape, seed, update, layer
            )
        )
        for seed, update in [(0, 0), (2**31 - 1, 1), (12345, 2**31 - 1)]:
            numbers = [ops.cast(n, "int32") for n in (seed, update)]
            made.append(ops.convert_to_numpy(draw(*numbers)))
    return made


def network():
    """A small network whose arithmetic is exact.

    Weights are multiples of 1/16, and Lion moves them by 1/16 or not at all:
    sums of their products with small integers are exact, in any order.
    """
    inputs = keras.Input((6, 6, 1))
    hidden = layers.Conv2D(4, 3, activation="relu")(inputs)
    hidden = layers.MaxPooling2D(2)(hidden)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(32, activation="relu")(hidden)
    model = keras.Model(inputs, layers.Dense(4)(hidden))
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.integers(-12, 13, w.shape) / 16.0 for w in model.get_weights()]
    )
    return kft.sparsify(model, 0.6, seed=4)


def edst(directory):
    return kft.callbacks.EDST(
        exploration_epochs=1,
        refinement_epochs=1,
        num_tickets=2,
        update_interval=3,
        learning_rate=None,  # stay on the grid
        monitor="loss",
        directory=directory,
    )


def fitted(callback, **options):
    """Everything that a model holds after 24 steps of integer data."""
    model = network()
    model.compile(
        keras.optimizers.Lion(1 / 16, beta_1=0.5, beta_2=0.5),
        "mean_squared_error",
        **options,
    )
    rng = np.random.default_rng(2)
    x = rng.integers(-1, 2, (128, 6, 6, 1)).astype("float32")
    y = rng.integers(-2, 3, (128, 4)).astype("float32")
    before = [ops.convert_to_numpy(r.mask.value) for r in model.masked_kernels]
    model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )
    assert int(ops.convert_to_numpy(model.update_state.update_count.value)) >= 8
    for old, record in zip(before, model.masked_kernels, strict=True):
        assert (ops.convert_to_numpy(record.mask.value) != old).any()
    held = [*model.variables, *model.optimizer.variables]
    values = [ops.convert_to_numpy(v.value) for v in held]
    # Keras counts in int64 on TensorFlow.
    return [v.astype("int32") if v.dtype == "int64" else v for v in values]


def fits():
    """TensorFlow runs its own way: graphs in which updates are compiled."""
    falling = schedules.Cosine(0.5, 24)
    with tempfile.TemporaryDirectory() as directory:
        return {
            "fit RigL": fitted(kft.callbacks.RigL(2, 0.3)),
            "fit SET": fitted(kft.callbacks.SET(3, falling)),
            "fit EDST": fitted(edst(directory), jit_compile=True),
        }


def everything():
    found = {}
    for mode, run in modes().items():
        found[f"{mode}/bits"] = bits(run)
        for name, schedule in SCHEDULES.items():
            found[f"{mode}/count {name}"] = drop_counts(run, schedule)
        for name, method in METHODS.items():
            if mode == "plain" and name != "RigL":
                continue  # the slowest way, for one method
            choose = run(choice(method))
            # One operation at a time is slow on TensorFlow, and the others are
            # compared in graphs.
            kinds = KINDS if mode != "plain" else ["ties", "not finite"]
            for kind in kinds:
                masks = chosen_masks(choose, kind)
                found[f"{mode}/masks {name}, {kind}"] = masks
    found |= {f"fit/{name}": arrays for name, arrays in fits().items()}
    return {
        f"{name}/{i}": array
        for name, arrays in found.items()
        for i, array in enumerate(arrays)
    }


if __name__ == "__main__":
    np.savez(sys.argv[1], **everything())
