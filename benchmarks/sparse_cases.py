"""What the parts of `real_sparse.py` share: networks, turns, rows."""

import time

import common
import keras
import numpy as np
from absl import flags

from keras_freetickets import kernels
from keras_freetickets.layers import CompressedDense

FLAGS = flags.FLAGS
flags.DEFINE_multi_float("sparsity", [0.9, 0.95, 0.98], "Sparsities.")
flags.DEFINE_integer("rounds", 9, "Turns of each, of which medians are taken.")
flags.DEFINE_integer("calls", 5, "Calls of a turn.")
flags.DEFINE_integer("threads", 1, "Threads of the backend and the kernels.")
flags.DEFINE_multi_integer("batch", [1, 32, 256], "Batches of predictions.")
flags.DEFINE_integer("predict_size", 1024, "Units of `predict`, `ensemble`.")


def limit_threads(count):
    """Threads of kernels and backend; NumPy's are set by its environment."""
    kernels.set_num_threads(count)
    if common.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)


def compressed(inputs, outputs, sparsity, seed=0):
    """Values and structure of a random sparse kernel."""
    rng = np.random.default_rng([FLAGS.seed, seed])
    mask = rng.random((inputs, outputs)) >= sparsity
    kernel = rng.standard_normal((inputs, outputs)).astype("float32")
    kernel *= mask * np.float32((2 / (inputs * (1 - sparsity))) ** 0.5)
    values, structure = kernels.compress(kernel, mask)
    return values, structure


def measure(runs, calls=None):
    """Milliseconds of a call, turn by turn.

    Returns:
        Two dicts of lists, by name: times of all processors, and of the clock.
    """
    calls = calls or FLAGS.calls
    processor, clock = ({name: [] for name in runs} for _ in range(2))
    rng = np.random.default_rng(FLAGS.seed)
    for run in runs.values():
        run()
    for _ in range(FLAGS.rounds):
        for name in map(str, rng.permutation(list(runs))):
            runs[name]()  # its weights come into the cache
            start, start_clock = time.process_time(), time.perf_counter()
            for _ in range(calls):
                runs[name]()
            elapsed = time.process_time() - start
            elapsed_clock = time.perf_counter() - start_clock
            processor[name].append(elapsed / calls * 1e3)
            clock[name].append(elapsed_clock / calls * 1e3)
    return processor, clock


def rows_of(case, runs, dense, calls=None):
    """Figures of one case: what `dense` names are rivals, the best counts."""
    times, clock = measure(runs, calls)
    best = min(dense, key=lambda name: np.median(times[name]))
    base = float(np.median(times[best]))
    base_clock = min(float(np.median(clock[name])) for name in dense)
    least = min(min(times[name]) for name in dense)
    rows = []
    print(f"\n{case}, dense: {best}")
    for name, values in times.items():
        figures, of_clock = common.spread(values), common.spread(clock[name])
        row = {
            "case": case,
            "name": name,
            "ms": figures,
            "least_ms": min(values),
            "clock_ms": of_clock,
            "dense": best,
            "ratio": figures["median"] / base,
            "least_ratio": min(values) / least,
            "clock_ratio": of_clock["median"] / base_clock,
        }
        rows.append(row)
        ratios = f"{row['ratio']:.3f}, of the least {row['least_ratio']:.3f}"
        print(f"  {name:24} {common.shown(figures)} ms, {ratios}")
        shown = common.shown(of_clock)
        print(f"  {'by the clock':24} {shown} ms, {row['clock_ratio']:.3f}")
    return rows


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
