r"""What bounds the kernels of compressed layers, on one core.

Four parts: `machine` (the rate of products and sums, and of reading, by loops
of the kernels' own vectors), `kernels` (time, bytes and FLOPs of a weight in
each kernel, beside what the machine would take for them), `step` (the training
step of a wide residual network by its parts, beside the dense one) and
`prediction` (one example by three tickets). Times are the least of many, of the
process' processor.

    KERAS_BACKEND=tensorflow python benchmarks/roofline.py \
        --output=roofline.json
"""

import functools
import time

import common
import keras
import numpy as np
import roofline_loops as loops
import sparse_cases
import sparse_training
from absl import app
from absl import flags

import keras_freetickets as kft
from keras_freetickets import kernels
from keras_freetickets.kernels import compiled
from keras_freetickets.kernels import convolution
from keras_freetickets.kernels import groups
from keras_freetickets.kernels import planes
from keras_freetickets.kernels import threads
from keras_freetickets.kernels.geometry import Geometry

FLAGS = flags.FLAGS
for module in (common, sparse_cases, sparse_training):
    flags.adopt_module_key_flags(module)
flags.DEFINE_list(
    "parts", ["machine", "kernels", "step", "prediction"], "Parts to run."
)
flags.DEFINE_float("at", 0.98, "Sparsity of `kernels` and `step`.")
flags.DEFINE_float("seconds", 0.5, "How long each figure is measured.")
flags.DEFINE_integer("size", 2048, "Units of the dense layers of `kernels`.")
flags.DEFINE_integer("units", 1024, "Units of the layers of `prediction`.")
flags.DEFINE_integer("factor", 4, "Width of the residual network.")


def least(run):
    """Seconds of a call: the least of as many as there is time for."""
    run()
    found, end = [], time.perf_counter() + FLAGS.seconds
    while not found or time.perf_counter() < end:
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


@functools.cache
def flops_a_second():
    values = np.ones(1 << 15, "float32")
    x = np.zeros(128, "float32")
    return 2 * 128 * len(values) / least(lambda: loops.multiply(x, values))


@functools.cache
def bytes_a_second(size):
    """Of reading `size` bytes again and again."""
    floats = max(1, size // 512) * 128
    x = np.zeros(floats, "float32")
    passes = max(1, (1 << 20) // floats)
    values = np.ones(passes, "float32")
    return 4 * floats * passes / least(lambda: loops.stream(x, values, floats))


def machine_rows():
    """The machine, by loops of vectors of 128 floats."""
    rows = [{"name": "products and sums", "GFLOP/s": flops_a_second() / 1e9}]
    for kilobytes in (16, 256, 4096, 65536):
        rate = bytes_a_second(kilobytes << 10) / 1e9
        rows.append({"name": f"reading {kilobytes} KB", "GB/s": rate})
    return shown("machine", rows)


def shown(case, rows):
    print(f"\n{case}")
    for row in rows:
        figures = [
            f"{key} {value:.3g}" for key, value in row.items() if key != "name"
        ]
        print(f"  {row['name']:32} {', '.join(figures)}")
    return [{"case": case, **row} for row in rows]


def bound(name, way, run, structure, shape, working_set):
    """One kernel beside what the machine would take.

    Args:
        name: String.
        way: String, `"forward"` or `"backward"`.
        run: Callable, the kernel.
        structure: `CompressedStructure`.
        shape: Pair of integers, tiles and floats of a tile.
        working_set: Integer, bytes that the vectors are read from.
    """
    tiles, lanes = shape
    seconds = least(run) / (structure.active * tiles)
    # A weight reads one vector, which backward has two uses for. Forward, each
    # unit writes one. Backward, each input that has a weight in a block of
    # units reads itself, and reads and writes the sum of its gradient.
    if way == "forward":
        flops, others = 2 * lanes, structure.num_outputs
    else:
        flops = 4 * lanes
        others = 3 * np.count_nonzero(np.diff(structure.by_input[0]))
    moved = 4 * lanes * (1 + others / structure.active)
    return {
        "name": f"{name}, {way}",
        "ns": 1e9 * seconds,
        "FLOPs": flops,
        "ns by arithmetic": 1e9 * flops / flops_a_second(),
        "bytes": moved,
        "ns by bytes": 1e9 * moved / bytes_a_second(working_set),
        "ns of the loop in the first cache": (
            1e9 * loops.seconds_of(way, lanes, least)
        ),
    }


def dense_bounds(batch):
    size, rng = FLAGS.size, np.random.default_rng(FLAGS.seed)
    values, structure = sparse_cases.compressed(size, size, FLAGS.at)
    x, dy = (
        kernels.pack(rng.standard_normal((batch, size), "float32"))
        for _ in range(2)
    )
    dx, y = np.empty_like(x.data), np.empty_like(dy.data)
    dvalues, bias = np.empty_like(values), np.zeros(size, "float32")
    position = structure.positions
    ends = (x.tiles, size)
    runs = {
        "forward": lambda: compiled.forward(x.lanes)(
            *(values, *position[:2], bias, x.data, y, *ends, False, 0, size)
        ),
        "backward": lambda: compiled.backward(x.lanes)(
            *(values, *position, x.data, dy.data, dx, dvalues, *ends, 0, size)
        ),
    }
    name = f"dense {size}, batch {batch}"
    shape, tile = (x.tiles, x.lanes), 4 * size * x.lanes
    return [
        bound(name, way, run, structure, shape, tile)
        for way, run in runs.items()
    ]


class Convolution:
    """A compressed convolution on random images.

    Args:
        geometry: `Geometry`.
        values: float32 array.
        structure: `CompressedStructure`.
        batch: Integer.
    """

    def __init__(self, geometry, values, structure, batch):
        rng = np.random.default_rng(FLAGS.seed)
        shape = batch, geometry.height, geometry.width, geometry.channels
        made = geometry.out_height, geometry.out_width, structure.num_outputs
        self.geometry, self.structure, self.batch = geometry, structure, batch
        self.values, self.bias = values, np.zeros(made[-1], "float32")
        self.sizes = np.array(geometry.numbers(), "int64")
        self.x = rng.standard_normal(shape, "float32").reshape(-1)
        self.dy = rng.standard_normal((batch, *made), "float32").reshape(-1)
        self.dx, self.y, self.dvalues = map(
            np.empty_like, (self.x, self.dy, values)
        )
        self.pixels = batch * geometry.rows * geometry.columns

    def call_seconds(self):
        """Of a forward and a backward call."""
        ends = (
            np.uint64(convolution.pool_of_process()),
            np.uint64(threads.address()),
        )
        ends = self.sizes, self.batch, *ends
        positions, values = self.structure.positions, self.values
        forward = least(
            lambda: convolution.forward(
                *(values, *positions[:2], self.bias, self.x, self.y),
                *(*ends[:2], False, *ends[2:]),
            )
        )
        gradients = self.dx, self.dvalues, np.empty_like(self.bias)
        return forward + least(
            lambda: convolution.backward(
                *(values, *positions, self.x, self.dy, *gradients, *ends)
            )
        )

    def runs(self):
        """The kernels alone, on packed images."""
        sizes, images = self.sizes, (0, self.batch, self.batch)
        units, channels = len(self.bias), self.geometry.channels
        plane = int(planes.plane_floats(self.batch, sizes, False))
        out_plane = int(planes.plane_floats(self.batch, sizes, True))
        count = int(np.prod(self.geometry.strides)) * channels * plane
        x, dx = kernels.operations.empty(count), kernels.operations.empty(count)
        y = kernels.operations.empty(units * out_plane)
        planes.pack_images(self.x, images, sizes, plane, x)
        made = planes.output_sizes(sizes, units)
        planes.pack_images(self.dy, images, made, out_plane, y)
        dx[:] = 0
        out = np.empty_like(y)
        offsets = planes.offsets_of(sizes, plane)
        positions, values = self.structure.positions, self.values
        forward = (values, *positions[:2], self.bias, x, out, offsets)
        forward += (self.pixels, out_plane, False)
        backward = (values, *positions, x, y, dx, self.dvalues, offsets)
        backward += (np.int64(channels), self.pixels, out_plane)
        return {
            "forward": lambda: convolution.forward_part(0, 1, forward),
            "backward": lambda: convolution.backward_part(0, 1, backward),
        }

    def bounds(self):
        geometry = self.geometry
        tiles = -(-self.pixels // planes.LANES)
        read = 4 * geometry.channels * (planes.LANES + 2 * geometry.columns)
        made = 4 * len(self.bias) * planes.LANES
        working = {"forward": read, "backward": 2 * read + made}
        name = f"3x3, {geometry.channels} channels, {geometry.height} pixels"
        shape = tiles, planes.LANES
        return [
            bound(name, way, run, self.structure, shape, working[way])
            for way, run in self.runs().items()
        ]


def kernel_rows():
    """Each kernel, per weight and tile of examples or pixels."""
    rows = dense_bounds(32) + dense_bounds(128)
    for pixels, channels in ((32, 64), (16, 128), (8, 256)):
        channels = channels * FLAGS.factor // 4
        geometry = Geometry.of(
            (pixels, pixels, channels), (3, 3), (1, 1), "same"
        )
        values, structure = sparse_cases.compressed(
            9 * channels, channels, FLAGS.at
        )
        batch = FLAGS.convolution_batch
        rows += Convolution(geometry, values, structure, batch).bounds()
    return shown(f"a weight and tile, sparsity {FLAGS.at}", rows)


def layer_seconds(layer, batch):
    """Of a layer's calls, and of the kernels within them."""
    values = keras.ops.convert_to_numpy(layer.values)
    structure = layer.structure
    if isinstance(layer, kft.layers.CompressedConv2D) and (
        set(layer.kernel_size) != {1}
    ):
        shape = layer.input.shape[1:]
        geometry = Geometry.of(
            shape, layer.kernel_size, layer.strides, layer.padding
        )
        one = Convolution(geometry, values, structure, batch)
        return one.call_seconds(), sum(map(least, one.runs().values()))
    rows = batch * int(np.prod(layer.output.shape[1:-1]))
    rng = np.random.default_rng(FLAGS.seed)
    x = rng.standard_normal((rows, structure.num_inputs), "float32")
    dy = rng.standard_normal((rows, structure.num_outputs), "float32")
    seconds = least(lambda: kernels.forward(structure, values, x))
    seconds += least(lambda: kernels.backward(structure, values, x, dy))
    return seconds, seconds


def optimizer_seconds(model):
    variables = model.trainable_variables
    gradients = [keras.ops.zeros_like(v) for v in variables]
    if common.backend() == "jax":
        raise app.UsageError("`step` needs KERAS_BACKEND=tensorflow.")
    import tensorflow as tf

    apply = tf.function(lambda: model.optimizer.apply(gradients, variables))
    return least(apply)


def step_rows():
    """A training step by its parts."""
    batch = FLAGS.convolution_batch
    dense = kft.applications.wide_resnet(16, FLAGS.factor)
    model = kft.sparsify(
        dense, FLAGS.at, "uniform", storage="compressed", seed=FLAGS.seed
    )
    whole, base = (
        least(sparse_training.step_of(one, "sgd", batch, False))
        for one in (model, dense)
    )
    layers = [la for la in model.layers if hasattr(la, "structure")]
    found = [layer_seconds(layer, batch) for layer in layers]
    calls, alone = (sum(part) for part in zip(*found, strict=True))
    optimizer = optimizer_seconds(model)
    parts = {
        "the whole step": whole,
        "kernels": alone,
        "packing of images": calls - alone,
        "optimizer": optimizer,
        "the rest": whole - calls - optimizer,
        "without kernels and packing": whole - calls,
    }
    rows = [
        {"name": name, "ms": 1e3 * seconds, "of the dense step": seconds / base}
        for name, seconds in parts.items()
    ]
    rows.append({"name": "the dense step", "ms": 1e3 * base})
    case = f"step of a wide residual network 16-{FLAGS.factor}"
    return shown(f"{case}, sparsity {FLAGS.at}, batch {batch}", rows)


def prediction_rows():
    """Three tickets of 4 layers, one example, beside a dense network."""
    rows, size = [], FLAGS.units
    rng = np.random.default_rng(FLAGS.seed)
    x = rng.standard_normal((1, size), "float32")
    bias = np.zeros(size, "float32")
    dense = [rng.standard_normal((size, size), "float32") for _ in range(4)]

    def product():
        y = x
        for kernel in dense:
            y = np.maximum(y @ kernel + bias, 0)
        return y

    def row(name, seconds, weights, size_in_bytes):
        read = bytes_a_second(size_in_bytes)
        return {
            "name": name,
            "ms": 1e3 * seconds,
            "ns a weight": 1e9 * seconds / weights,
            "bytes a weight": size_in_bytes / weights,
            "ms by reading": 1e3 * size_in_bytes / read,
        }

    rows.append(row("dense", least(product), 4 * size**2, 16 * size**2))
    for sparsity in FLAGS.sparsity:
        layers = [
            sparse_cases.compressed(size, size, sparsity, i) for i in range(12)
        ]
        network = kernels.CompressedNetwork(
            [
                [kernels.CompressedLayer(*la, bias, True) for la in member]
                for member in (layers[:4], layers[4:8], layers[8:])
            ]
        )
        packed = [groups.grouped(*la) for la in layers]
        held = sum(array.nbytes for one in packed for array in one)
        vectors = sum(len(one.counts) for one in packed)
        weights = sum(len(la[0]) for la in layers)
        seconds = least(lambda n=network: n.predict_members(x))
        figures = row(f"three of {sparsity}", seconds, weights, held)
        figures["ns a vector"] = 1e9 * seconds / vectors
        figures["weights a vector of 16"] = weights / vectors
        rows.append(figures)
    return shown(f"prediction of one example, 4 x {size}", rows)


PARTS = {
    "machine": machine_rows,
    "kernels": kernel_rows,
    "step": step_rows,
    "prediction": prediction_rows,
}


def main(_):
    sparse_cases.limit_threads(1)
    common.save_parts(PARTS, FLAGS.parts)


if __name__ == "__main__":
    app.run(main)
