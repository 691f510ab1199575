"""Parts of `real_sparse.py` that train: steps through Keras, updates."""

import time

import common
import keras
import numpy as np
from absl import flags
from sparse_cases import rows_of

import keras_freetickets as kft

FLAGS = flags.FLAGS
flags.DEFINE_integer("width", 2048, "Units of the hidden layers of `step`.")
flags.DEFINE_integer("features", 512, "Features of `attention`, of 8 heads.")
flags.DEFINE_integer("convolution_batch", 32, "Images of a step.")


def network(sparsity):
    hidden = [keras.layers.Dense(FLAGS.width, "relu") for _ in range(3)]
    dense = keras.Sequential(
        [keras.Input((784,)), *hidden, keras.layers.Dense(10)]
    )
    if sparsity is None:
        return dense
    return kft.sparsify(
        dense, sparsity, "uniform", storage="compressed", seed=FLAGS.seed
    )


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
}


def step_of(model, optimizer, batch, jit_compile):
    """A function that makes one training step."""
    rng = np.random.default_rng(FLAGS.seed)
    x = rng.standard_normal((batch, *model.input_shape[1:])).astype("float32")
    y = rng.integers(0, 10, (batch, *model.output_shape[1:-1]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(OPTIMIZERS[optimizer](), loss, jit_compile=jit_compile)
    x, y = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)
    if common.backend() == "jax":
        return jax_step(model, x, y)
    model.make_train_function()

    def step():
        return float(model.train_function(iter([(x, y)]))["loss"])

    return step


def jax_step(model, x, y):
    import jax

    model.make_train_function()
    model.optimizer.build(model.trainable_variables)
    model.train_on_batch(x, y)
    state = [
        tuple(
            [jax.numpy.copy(v.value) for v in group]
            for group in (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )
        )
    ]

    def step():
        run = model.train_function
        logs, state[0] = run(state[0], iter([(x, y, None)]))
        return float(logs["loss"])

    return step


def step_rows():
    """784-width x 3-10: Adam at batch 32, SGD with momentum at batch 128."""
    rows = []
    for optimizer, batch in (("adam", 32), ("sgd", 128)):
        case = f"step of 784-{FLAGS.width}x3-10, {optimizer}, batch {batch}"
        rows += steps_of(case, network, optimizer, batch)
    return rows


def steps_of(case, make, optimizer, batch):
    """Training steps of `make(None)`, dense, and of sparse models."""
    modes = {"dense": False, "dense, XLA": True, "control": False}
    if common.backend() == "jax":
        modes = {"dense": True, "control": True}
    runs = {
        name: step_of(make(None), optimizer, batch, mode)
        for name, mode in modes.items()
    }
    for sparsity in FLAGS.sparsity:
        model, mode = make(sparsity), common.backend() == "jax"
        runs[f"compressed {sparsity}"] = step_of(model, optimizer, batch, mode)
    return rows_of(case, runs, [name for name in modes if name != "control"])


def attention(sparsity):
    """Attention of 64 steps to themselves, 8 heads."""
    inputs = keras.Input((64, FLAGS.features))
    layer = keras.layers.MultiHeadAttention(8, FLAGS.features // 8)
    dense = keras.Model(inputs, layer(inputs, inputs))
    if sparsity is None:
        return dense
    return kft.sparsify(
        dense, sparsity, "uniform", storage="compressed", seed=FLAGS.seed
    )


def attention_rows():
    """One attention, Adam, batch 32."""
    case = f"step of attention, {FLAGS.features} features, adam, batch 32"
    return steps_of(case, attention, "adam", 32)


def convolution_rows():
    """A wide residual network of 16 layers and width 4, images of 32x32."""
    batch, compiled = FLAGS.convolution_batch, common.backend() == "jax"
    dense = kft.applications.wide_resnet(16, 4)
    runs = {
        name: step_of(keras.models.clone_model(dense), "sgd", batch, compiled)
        for name in ("dense", "control")
    }
    for sparsity in FLAGS.sparsity:
        model = kft.sparsify(
            dense, sparsity, "uniform", storage="compressed", seed=FLAGS.seed
        )
        run = step_of(model, "sgd", batch, compiled)
        runs[f"compressed {sparsity}"] = run
    case = f"step of a wide residual network 16-4, sgd, batch {batch}"
    return rows_of(case, runs, ["dense"])


class _StepTimes(keras.callbacks.Callback):
    """Milliseconds of processor time of each step of a `fit` but the first."""

    def __init__(self):
        super().__init__()
        self.times, self._last = [], None

    def on_train_batch_end(self, batch, logs=None):
        now = time.process_time()
        if self._last is not None:
            self.times.append(1e3 * (now - self._last))
        self._last = now


def update_rows():
    """What RigL's updates add to the mean step of 784-width x 3-10."""
    sizes = [FLAGS.width] * 3
    dense = keras.Sequential(
        [
            keras.Input((784,)),
            *(keras.layers.Dense(size, "relu") for size in sizes),
            keras.layers.Dense(10),
        ]
    )
    interval, updates, rows = 8, 8, []
    rng = np.random.default_rng(FLAGS.seed)
    examples = 32 * (interval + 1) * updates
    x = rng.standard_normal((examples, 784)).astype("float32")
    y = rng.integers(0, 10, examples)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for sparsity in FLAGS.sparsity:
        model = kft.sparsify(
            dense, sparsity, storage="compressed", seed=FLAGS.seed
        )
        model.compile("adam", loss)
        timer = _StepTimes()
        rigl = kft.callbacks.RigL(update_interval=interval)
        fit = {"batch_size": 32, "shuffle": False, "verbose": 0}
        model.fit(x, y, callbacks=[rigl, timer], **fit)
        times = np.array(timer.times[2 * interval :])
        step = float(np.median(times))
        update = float(np.median(times[times > 3 * step])) - step
        share = update / (200 * step + update)
        case = f"update of RigL, 784-{FLAGS.width}x3-10, adam, batch 32"
        name = f"compressed {sparsity}"
        row = {"case": case, "name": name, "step_ms": step}
        rows.append({**row, "update_ms": update, "share_at_200": share})
        print(
            f"\n{case}: {name}: step {step:.1f} ms, update {update:.1f} ms "
            f"more, {share:.3f} of the mean step at an interval of 200"
        )
    return rows
