"""Times members that train side by side against one after another.

```shell
python benchmarks/side_by_side.py --output=side_by_side.json
KERAS_BACKEND=jax python benchmarks/side_by_side.py
```

One optimizer step of all members: in sequence, each by the compiled step of
its own, and side by side, all in one compiled step. `again` is the sequence
once more (the control: how far from 1 a ratio gets by chance). A round is one
interval of topology updates (RigL) for each way, update included, in blocks of
a few steps in a random order. Ratios are to the sequence of the same
round, by the clock and of processor time. Steps are calls of the compiled
train function on a fixed batch: no input pipeline is timed, of which members
side by side need one and a sequence of runs one each.

On JAX `vmap` computes all members by the same operations and `unrolled` each
by its own; on TensorFlow members are unrolled. There, with
`--gradients`, `tf.vectorized_map` over members is timed against them
unrolled, for the gradients alone, where it can be had (no convolutions).
"""

import time

import common
import keras
import step
from absl import app
from absl import flags
from common import FLAGS
from common import backend
from common import batch
from common import compile_model
from common import network
from common import new_report
from common import program
from common import save
from step import Steps

import keras_freetickets as kft
from keras_freetickets.topology import RigL

flags.adopt_module_key_flags(common)
flags.adopt_module_key_flags(step)
flags.DEFINE_integer("members", 4, "How many train.", lower_bound=1)
flags.DEFINE_list("batch_sizes", ["32", "128"], "Examples in a batch.")
flags.DEFINE_bool("gradients", False, "Whether to time gradients alone.")

SEQUENCE = "in sequence"


def members(name, optimizer, jit_compile):
    """Sparse models of one architecture, each with masks of its own."""
    found = []
    for seed in range(FLAGS.members):
        model = kft.sparsify(network(name), FLAGS.sparsity, seed=seed)
        compile_model(model, optimizer, jit_compile)
        found.append(model)
    return found


def method(seed=0):
    # The step of an update is none of the optimizer's, which counts.
    return RigL(FLAGS.interval - 1, 0.3, seed=seed)


class Sequence:
    """Steps of members that train one after another."""

    def __init__(self, models, data):
        for seed, model in enumerate(models):
            model.attach(method(seed))
        self.runs = [Steps(model, data) for model in models]

    def __call__(self, count):
        for run in self.runs:
            run(count)

    def updates(self):
        return self.runs[0].updates()


class Together(Steps):
    """Steps of members that train side by side."""

    def __init__(self, models, data, vectorize):
        together = kft.SideBySide(models, vectorize=vectorize)
        together.attach(method())
        for model in models:
            model.update_state.next_update.assign(0)
        super().__init__(together, data)

    def _values(self):
        if backend() != "jax":
            return None
        return self.model._get_jax_state(
            trainable_variables=True,
            non_trainable_variables=True,
            optimizer_variables=True,
            metrics_variables=True,
        )

    def updates(self):
        first = self.model.members[0]
        count = first.update_state.update_count
        if backend() == "jax":
            others = [id(v) for v in first.non_trainable_variables]
            return int(self.state[1][others.index(id(count))])
        return int(keras.ops.convert_to_numpy(count.value))


def ways(name, optimizer, jit_compile, data):
    """What takes turns, by name, and the seconds of its first steps."""
    makers = {
        SEQUENCE: lambda models: Sequence(models, data),
        "again": lambda models: Sequence(models, data),
        "unrolled": lambda models: Together(models, data, False),
    }
    if backend() == "jax":
        makers["vmap"] = lambda models: Together(models, data, True)
    found, seconds = {}, {}
    for way, make in makers.items():
        models = members(name, optimizer, jit_compile)
        before = time.perf_counter()
        found[way] = make(models)
        seconds[way] = time.perf_counter() - before
    return found, seconds


def gradients(name, jit_compile, data):
    """The gradients of all members on TensorFlow, in two ways."""
    import tensorflow as tf

    models = members(name, "sgd", jit_compile)
    first = models[0]
    x, y = data

    def of_one(values):
        with tf.GradientTape() as tape:
            tape.watch(values[0])
            y_pred, _ = first.stateless_call(*values, x, training=True)
            loss = first.loss(y, y_pred)
        return tape.gradient(loss, values[0])

    stacks = tuple(
        [
            tf.stack([v.value for v in same])
            for same in zip(*groups, strict=True)
        ]
        for groups in (
            [m.trainable_variables for m in models],
            [m.non_trainable_variables for m in models],
        )
    )

    def one_by_one():
        parts = [[tf.unstack(stack) for stack in group] for group in stacks]
        return [
            of_one([[stack[i] for stack in group] for group in parts])
            for i in range(len(models))
        ]

    def vectorized():
        return tf.vectorized_map(of_one, stacks, fallback_to_while_loop=False)

    found = {
        way: Repeated(program(function, jit_compile))
        for way, function in (
            (SEQUENCE, one_by_one),
            ("again", one_by_one),
            ("vectorized_map", vectorized),
        )
    }
    for run in found.values():
        run(2)
    return found, {}


class Repeated:
    """Calls of a function, without topology updates."""

    def __init__(self, function):
        self.function = function

    def __call__(self, count):
        for _ in range(count):
            self.function()

    def updates(self):
        return 0


def main(_):
    report = new_report()
    modes = ["xla"] if backend() == "jax" else FLAGS.modes
    for name in FLAGS.networks:
        for size in map(int, FLAGS.batch_sizes):
            for mode in modes:
                data, jit_compile = batch(name, size), mode == "xla"
                for optimizer in FLAGS.optimizers:
                    if FLAGS.gradients:
                        found, seconds = gradients(name, jit_compile, data)
                    else:
                        found, seconds = ways(
                            name, optimizer, jit_compile, data
                        )
                    rows = step.summary(step.measure(found), SEQUENCE)
                    case = {"network": name, "batch": size, "mode": mode}
                    case["optimizer"] = optimizer
                    step.show(", ".join(map(str, case.values())), rows)
                    if seconds:
                        print("seconds of the first steps:", seconds)
                    for way, row in rows.items():
                        row["first_s"] = seconds.get(way)
                        report["rows"].append({**case, "way": way, **row})
                    save(report)


if __name__ == "__main__":
    app.run(main)
