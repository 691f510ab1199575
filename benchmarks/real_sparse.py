r"""Training and prediction on the active weights alone, beside dense.

Eleven parts: `layer` (forward and backward of one product), `step` (a training
step through Keras), `attention` (the same of one attention), `convolution` (the
same of a wide residual network), `convolution_predict` (one and three of these
against a dense one in ONNX Runtime, OpenVINO and Keras), `bridge` (what a call
of the kernels costs in a program of the backend), `predict` (three sparse
networks against one dense one), `ensemble` (the same through Keras' models),
`memory` (peak resident memory that training adds, each side in a process of its
own, on Linux), `convolution_memory` (the same of a wide residual network that
is read from a file, one image of 8x8 pixels a step, so that hardly any is
activations) and `update` (what RigL's updates add to the mean step).
What is compared takes turns in one process; a second dense model is the
control. Times are of the process' processors, so that other work on the
machine counts less, and ratios are of medians. The rival is the faster of
what `dense` lists; ONNX Runtime is among them for prediction where it and
onnx are installed.

    KERAS_BACKEND=tensorflow python benchmarks/real_sparse.py \
        --parts=layer,step,predict --output=real_sparse.json
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import peak_bytes
from dense_runtimes import dense_runtimes

import keras_freetickets as kft
from keras_freetickets import kernels
from keras_freetickets.layers import CompressedDense

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.DEFINE_list(
    "parts",
    [
        *("layer", "step", "attention", "bridge", "predict", "ensemble"),
        *("memory", "update", "convolution", "convolution_predict"),
        "convolution_memory",
    ],
    "Parts to run.",
)
flags.DEFINE_multi_float("sparsity", [0.9, 0.95, 0.98], "Sparsities.")
flags.DEFINE_integer("rounds", 9, "Turns of each, of which medians are taken.")
flags.DEFINE_integer("calls", 5, "Calls of a turn.")
flags.DEFINE_integer("threads", 1, "Threads of the backend and the kernels.")
flags.DEFINE_integer("layer_size", 4096, "Units of `layer`.")
flags.DEFINE_integer("width", 2048, "Units of the hidden layers of `step`.")
flags.DEFINE_integer("features", 512, "Features of `attention`, of 8 heads.")
flags.DEFINE_integer("convolution_batch", 32, "Images of a step.")
flags.DEFINE_integer("predict_size", 1024, "Units of `predict`, `ensemble`.")
flags.DEFINE_integer("memory_size", 4096, "Units of the layers of `memory`.")
flags.DEFINE_string("memory_side", "", "Used by `memory`: dense or compressed.")
flags.DEFINE_list("memory_files", [], "Used by `convolution_memory`.")
flags.DEFINE_integer("memory_width", 12, "Width of `convolution_memory`.")
flags.DEFINE_multi_integer("batch", [1, 32, 256], "Batches of `predict`.")


def compressed(inputs, outputs, sparsity, seed=0):
    """Values and structure of a random sparse kernel."""
    rng = np.random.default_rng([FLAGS.seed, seed])
    mask = rng.random((inputs, outputs)) >= sparsity
    kernel = rng.standard_normal((inputs, outputs)).astype("float32")
    kernel *= mask * np.float32((2 / (inputs * (1 - sparsity))) ** 0.5)
    values, structure = kernels.compress(kernel, mask)
    return values, structure


def measure(runs, calls=None):
    """Milliseconds of processor time of a call, turn by turn, by name."""
    calls = calls or FLAGS.calls
    times = {name: [] for name in runs}
    rng = np.random.default_rng(FLAGS.seed)
    for run in runs.values():
        run()
    for _ in range(FLAGS.rounds):
        for name in map(str, rng.permutation(list(runs))):
            runs[name]()  # its weights come into the cache
            start = time.process_time()
            for _ in range(calls):
                runs[name]()
            elapsed = time.process_time() - start
            times[name].append(elapsed / calls * 1e3)
    return times


def rows_of(case, runs, dense, calls=None):
    """Figures of one case: what `dense` names are rivals, the best counts."""
    times = measure(runs, calls)
    best = min(dense, key=lambda name: np.median(times[name]))
    base = float(np.median(times[best]))
    least = min(min(times[name]) for name in dense)
    rows = []
    print(f"\n{case}, dense: {best}")
    for name, values in times.items():
        figures = common.spread(values)
        row = {
            "case": case,
            "name": name,
            "ms": figures,
            "least_ms": min(values),
            "dense": best,
            "ratio": figures["median"] / base,
            "least_ratio": min(values) / least,
        }
        rows.append(row)
        ratios = f"{row['ratio']:.3f}, of the least {row['least_ratio']:.3f}"
        print(f"  {name:24} {common.shown(figures)} ms, {ratios}")
    return rows


def layer_rows():
    """Forward and backward of one square layer, batch 128."""
    size = FLAGS.layer_size
    rng = np.random.default_rng(FLAGS.seed)
    x, dy = (rng.standard_normal((128, size)).astype("float32") for _ in "xy")
    kernel = rng.standard_normal((size, size)).astype("float32")

    def dense():
        return x @ kernel, dy @ kernel.T, x.T @ dy

    rows = []
    for sparsity in FLAGS.sparsity:
        values, structure = compressed(size, size, sparsity)

        def sparse(structure=structure, values=values):
            y = kernels.forward(structure, values, x)
            return y, kernels.backward(structure, values, x, dy)

        runs = {"dense": dense, "control": dense, "compressed": sparse}
        runs.update(sparselab_ways(size, sparsity, x, dy))
        case = f"layer of {size} x {size}, batch 128, sparsity {sparsity}"
        rows += rows_of(case, runs, ["dense"])
    return rows


_KEPT = []


def sparselab_ways(size, sparsity, x, dy):
    """SparseLab's layer on PyTorch, where they are installed."""
    try:
        import sparselab
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(FLAGS.threads)
    layer = sparselab.SparseLinear(size, size, bias=False, sparsity=sparsity)
    # It has been seen to take another layer's indices for those of a layer
    # that is gone.
    _KEPT.append(layer)
    inputs = torch.tensor(x, requires_grad=True)
    gradient = torch.tensor(dy)
    dense = torch.nn.Linear(size, size, bias=False)
    return {
        "SparseLab": lambda: layer(inputs).backward(gradient),
        "dense, PyTorch": lambda: dense(inputs).backward(gradient),
    }


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


def convolution_predict_rows():
    """One and three such networks, compressed, against one dense one."""
    dense = kft.applications.wide_resnet(16, 4)
    members = {
        sparsity: [
            kft.sparsify(
                dense, sparsity, "uniform", storage="compressed", seed=seed
            )
            for seed in range(3)
        ]
        for sparsity in FLAGS.sparsity
    }
    ensembles = {
        f"{name} compressed {sparsity}": kft.EnsembleModel(tickets[:count])
        for sparsity, tickets in members.items()
        for name, count in (("one", 1), ("three", 3))
    }
    predictor = kft.serving.SparsePredictor.from_ensemble
    predictors = {name: predictor(one) for name, one in ensembles.items()}
    rng = np.random.default_rng(FLAGS.seed)
    rows = []
    for batch in FLAGS.batch:
        x = rng.random((batch, 32, 32, 3), "float32")
        runs = dense_runtimes(dense, x, FLAGS.threads)
        rivals = [name for name in runs if name != "control"]
        for name, one in predictors.items():
            runs[name] = lambda one=one, x=x: one.predict(x)
            ensemble = ensembles[name]
            runs[f"{name}, EnsembleModel"] = lambda e=ensemble, x=x: (
                e.predict_on_batch(x)
            )
        case = f"prediction of a wide residual network 16-4, batch {batch}"
        rows += rows_of(case, runs, rivals, calls_of(batch))
    return rows


def bridge_rows():
    """What a call of the kernels costs, each way that a backend has."""
    ways = jax_ways if common.backend() == "jax" else tensorflow_ways
    rows = []
    for size in (300, 1024):
        values, structure = compressed(size, size, 0.95)
        rng = np.random.default_rng(FLAGS.seed)
        x, dy = (
            rng.standard_normal((32, size)).astype("float32") for _ in "xy"
        )

        def alone(s=structure, v=values, x=x, dy=dy):
            return kernels.forward(s, v, x), kernels.backward(s, v, x, dy)

        runs = {"kernels alone": alone, **ways(structure, values, x, dy)}
        case = f"bridge, {size} x {size}, batch 32, sparsity 0.95"
        rows += rows_of(case, runs, ["dense"])
    return rows


def tensorflow_ways(structure, values, x, dy):
    import tensorflow as tf

    from keras_freetickets.kernels.structure import Positions
    from keras_freetickets.kernels.tensorflow import product

    positions = Positions(*map(tf.constant, structure.positions))
    v, xs, dys = map(tf.constant, (values, x, dy))
    bias = tf.zeros((structure.num_outputs,))
    kernel = tf.constant(kernels.decompress(values, structure))

    def both(call, weights):
        with tf.GradientTape() as tape:
            tape.watch([weights, xs])
            y = call(weights)
        return tape.gradient(y, [weights, xs], output_gradients=dys)

    def forward(v, x):
        return kernels.forward(structure, v, x)

    def backward(v, x, dy):
        return kernels.backward(structure, v, x, dy)[:2]

    @tf.function
    def called():
        y = tf.numpy_function(forward, [v, xs], tf.float32)
        with tf.control_dependencies([y]):
            return tf.numpy_function(backward, [v, xs, dys], [tf.float32] * 2)

    operation = tf.function(
        lambda: both(lambda v: product(positions, v, xs, bias), v)
    )
    dense = tf.function(lambda: both(lambda k: xs @ k, kernel))
    return {
        "dense": lambda: dense()[0].numpy(),
        "operation of ours": lambda: operation()[0].numpy(),
        "numpy_function": lambda: called()[0].numpy(),
    }


def jax_ways(structure, values, x, dy):
    import jax

    from keras_freetickets.kernels.jax import product

    kernel = kernels.decompress(values, structure)
    bias = np.zeros(structure.num_outputs, "float32")
    positions = jax.tree.map(jax.numpy.asarray, structure.positions)

    def both(call, weights, x, dy):
        y, back = jax.vjp(call, weights, x)
        return y, back(dy)

    @jax.jit
    def custom(v, x, dy):
        return both(lambda v, x: product(positions, v, x, bias), v, x, dy)

    @jax.jit
    def dense(k, x, dy):
        return both(lambda k, x: x @ k, k, x, dy)

    shape = jax.ShapeDtypeStruct

    @jax.jit
    def called(v, x, dy):
        y = jax.pure_callback(
            lambda v, x: kernels.forward(structure, v, x),
            shape(dy.shape, "float32"),
            *(v, x),
        )
        gradients = jax.pure_callback(
            lambda v, x, dy: kernels.backward(structure, v, x, dy)[:2],
            (shape(x.shape, "float32"), shape(v.shape, "float32")),
            *(v, x, dy),
        )
        return y, gradients

    arrays = [jax.numpy.asarray(one) for one in (values, x, dy)]
    kernel = jax.numpy.asarray(kernel)
    return {
        "dense": lambda: jax.block_until_ready(dense(kernel, *arrays[1:])),
        "typed FFI": lambda: jax.block_until_ready(custom(*arrays)),
        "pure_callback": lambda: jax.block_until_ready(called(*arrays)),
    }


def predict_rows():
    """Three sparse networks of 4 layers against one dense one."""
    rng = np.random.default_rng(FLAGS.seed)
    dense = [
        rng.standard_normal((FLAGS.predict_size, FLAGS.predict_size)).astype(
            "float32"
        )
        / 23
        for _ in range(4)
    ]
    bias = np.zeros(FLAGS.predict_size, "float32")
    rows = []
    for batch in FLAGS.batch:
        x = rng.standard_normal((batch, FLAGS.predict_size)).astype("float32")

        def numpy(x=x):
            for kernel in dense:
                x = np.maximum(x @ kernel + bias, 0)
            return x

        rivals = {
            "NumPy": numpy,
            "control": numpy,
            **keras_ways(x),
            **onnxruntime_ways(dense, bias, x),
        }
        for sparsity in FLAGS.sparsity:
            network = kernels.CompressedNetwork(
                [
                    [
                        kernels.CompressedLayer(
                            *compressed(
                                FLAGS.predict_size,
                                FLAGS.predict_size,
                                sparsity,
                                4 * t + i,
                            ),
                            bias,
                            True,
                        )
                        for i in range(4)
                    ]
                    for t in range(3)
                ]
            )

            def three(x=x, network=network):
                return network.predict_members(x)

            case = f"predict, {size_name()}, batch {batch}, sparsity {sparsity}"
            runs = {**rivals, "three compressed": three}
            names = [name for name in rivals if name != "control"]
            rows += rows_of(case, runs, names, calls_of(batch))
    return rows


def size_name():
    return f"4 x {FLAGS.predict_size}"


def calls_of(batch):
    """Calls of a turn of prediction: a single example takes little time."""
    return max(1, FLAGS.calls * 32 // batch) if batch < 32 else FLAGS.calls


def onnxruntime_ways(dense, bias, x):
    """The dense network in ONNX Runtime, where it is installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return {}
    helper = onnx.helper
    nodes, arrays, last = [], [onnx.numpy_helper.from_array(bias, "b")], "x"
    for i, kernel in enumerate(dense):
        arrays.append(onnx.numpy_helper.from_array(kernel, f"k{i}"))
        nodes.append(helper.make_node("Gemm", [last, f"k{i}", "b"], [f"g{i}"]))
        nodes.append(helper.make_node("Relu", [f"g{i}"], [f"y{i}"]))
        last = f"y{i}"
    ends = [
        helper.make_tensor_value_info(
            name, onnx.TensorProto.FLOAT, [None, x.shape[1]]
        )
        for name in ("x", last)
    ]
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], arrays)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = FLAGS.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return {"ONNX Runtime": lambda: session.run(None, {"x": x})}


def keras_ways(x):
    model = keras.Sequential(
        [
            keras.Input((FLAGS.predict_size,)),
            *(
                keras.layers.Dense(FLAGS.predict_size, activation="relu")
                for _ in range(4)
            ),
        ]
    )
    model.compile(jit_compile=False)
    return {"Keras": lambda: model.predict_on_batch(x)}


def spread_out(inputs, outputs, active, seed):
    """Values and structure of as many weights, without a dense kernel."""
    rng = np.random.default_rng([FLAGS.seed, seed])
    # `rng.choice` would list all places.
    places = np.unique(rng.integers(0, inputs * outputs, 5 * active // 4))
    places = np.sort(rng.permutation(places)[:active])
    units, columns = np.divmod(places, inputs)
    pointers = np.searchsorted(units, np.arange(outputs + 1))
    structure = kernels.CompressedStructure(pointers, columns, inputs)
    values = rng.standard_normal(active, "float32")
    return values * np.float32((2 * outputs / active) ** 0.5), structure


def chain(size, depth, sparsity, seed=0):
    """A Keras model of layers of one size, dense if `sparsity` is `None`."""
    inputs = keras.Input((size,))
    x = inputs
    for i in range(depth):
        if sparsity is None:
            x = keras.layers.Dense(size, "relu")(x)
            continue
        active = round(size * size * (1 - sparsity))
        values, structure = spread_out(size, size, active, seed + i)
        layer = CompressedDense(size, active, "relu")
        x = layer(x)
        layer.set_structure(structure, values)
    return keras.Model(inputs, x)


def ensemble_rows():
    """`EnsembleModel.predict_on_batch` of three against one dense model's."""
    models = {
        "Keras": chain(FLAGS.predict_size, 4, None),
        "control": chain(FLAGS.predict_size, 4, None),
    }
    rows = []
    for sparsity in FLAGS.sparsity:
        members = [
            chain(FLAGS.predict_size, 4, sparsity, 4 * t) for t in range(3)
        ]
        ensemble = kft.EnsembleModel(members, pooling="mean")
        predictor = kft.serving.SparsePredictor.from_ensemble(ensemble)
        for batch in FLAGS.batch:
            rng = np.random.default_rng(FLAGS.seed)
            x = rng.standard_normal((batch, FLAGS.predict_size)).astype(
                "float32"
            )

            def call(model, x=x):
                return lambda: model.predict_on_batch(x)

            runs = {name: call(model) for name, model in models.items()}
            runs["EnsembleModel of three"] = call(ensemble)
            runs["SparsePredictor"] = lambda x=x, p=predictor: p.predict(x)
            case = (
                f"ensemble, {size_name()}, batch {batch}, sparsity {sparsity}"
            )
            rows += rows_of(case, runs, ["Keras"], calls_of(batch))
    return rows


def memory_side():
    """Prints what making and training one side adds to the process."""
    dense = FLAGS.memory_side == "dense"
    sparsity = None if dense else FLAGS.sparsity[0]
    batch = 1 if FLAGS.memory_files else 128

    def train(model):
        optimizer = keras.optimizers.Adam(1e-4)
        model.compile(optimizer, "mse", jit_compile=False)
        x, y = (
            np.zeros((batch, *shape[1:]), "float32")
            for shape in (model.input_shape, model.output_shape)
        )
        for _ in range(4):
            model.train_on_batch(x, y)

    def small_and_large():
        if FLAGS.memory_files:
            return map(keras.models.load_model, FLAGS.memory_files)
        sizes = ((64, 2), (FLAGS.memory_size, 4))
        return (chain(size, depth, sparsity) for size, depth in sizes)

    models = iter(small_and_large())
    train(next(models))  # what the backend and compiling take
    gc.collect()
    added = peak_bytes(lambda: train(next(models)))
    print("RESULT " + json.dumps({"bytes": added}))


def convolution_memory_rows():
    """A wide residual network of 16 layers, Adam, one image of 8x8 pixels.

    It is read from a file, which makes no dense kernel, as `sparsify` does.
    """

    def files_of(side, sparsity):
        for width in (1, FLAGS.memory_width):
            model = kft.applications.wide_resnet(
                16, width, (8, 8, 3), weight_decay=0.0
            )
            if side != "dense":
                model = kft.sparsify(
                    model, sparsity, "uniform", storage="compressed", seed=0
                )
            path = os.path.join(directory, f"{side}_{sparsity}_{width}.keras")
            model.save(path)
            yield path

    case = f"memory, wide residual network 16-{FLAGS.memory_width}, adam"
    with tempfile.TemporaryDirectory() as directory:
        return memory_rows(
            f"{case}, batch 1",
            lambda *one: [f"--memory_files={','.join(files_of(*one))}"],
        )


def memory_rows(case=None, more=lambda side, sparsity: []):
    """Four layers, Adam, batch 128: what each side adds, by its own process.

    Args:
        case: String, the name of another case.
        more: Callable that returns flags for it, of a side and a sparsity.
    """
    case = case or f"memory, 4 x {FLAGS.memory_size}, adam, batch 128"
    rows = []
    cases = [("dense", FLAGS.sparsity[0])]
    cases += [("compressed", sparsity) for sparsity in FLAGS.sparsity]
    for side, sparsity in cases:
        command = [
            *(sys.executable, __file__, f"--memory_side={side}"),
            *(f"--sparsity={sparsity}", f"--memory_size={FLAGS.memory_size}"),
            *(f"--threads={FLAGS.threads}", f"--seed={FLAGS.seed}"),
            *more(side, sparsity),
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True
        )
        line = done.stdout.strip().splitlines()[-1]
        added = json.loads(line.removeprefix("RESULT "))["bytes"]
        name = side if side == "dense" else f"compressed {sparsity}"
        row = {"case": case, "name": name, "bytes": added}
        row["ratio"] = added / (rows[0]["bytes"] if rows else added)
        rows.append(row)
        print(f"{case}: {name:16} {added / 1e6:9.1f} MB, {row['ratio']:.3f}")
    return rows


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


PARTS = {
    "layer": layer_rows,
    "step": step_rows,
    "attention": attention_rows,
    "bridge": bridge_rows,
    "predict": predict_rows,
    "ensemble": ensemble_rows,
    "memory": memory_rows,
    "convolution_memory": convolution_memory_rows,
    "update": update_rows,
    "convolution": convolution_rows,
    "convolution_predict": convolution_predict_rows,
}


def limit_threads():
    """One core unless asked for more; NumPy's are set by its environment."""
    kernels.set_num_threads(FLAGS.threads)
    if common.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
        tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)


def main(_):
    limit_threads()
    if FLAGS.memory_side:
        memory_side()
        return
    report = common.new_report()
    for part in FLAGS.parts:
        report["rows"] += PARTS[part]()
        common.save(report)


if __name__ == "__main__":
    app.run(main)
