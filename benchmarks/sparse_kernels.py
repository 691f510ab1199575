"""Parts `layer` and `bridge` of `real_sparse.py`: kernels without Keras."""

import common
import numpy as np
from absl import flags
from sparse_cases import compressed
from sparse_cases import rows_of

from keras_freetickets import kernels

FLAGS = flags.FLAGS
flags.DEFINE_integer("layer_size", 4096, "Units of `layer`.")


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
