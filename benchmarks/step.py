"""Times a training step of a SparseModel against the plain Keras model.

```shell
python benchmarks/step.py --output=step.json
KERAS_BACKEND=jax python benchmarks/step.py --networks=wrn-28-10 \
    --optimizers=sgd --mixed_precision=mixed_bfloat16   # on a GPU
```

Models of one architecture, optimizer and batch take turns: the dense model,
the dense model once more (the control: how far from 1 a ratio gets by chance),
and sparse ones, with RigL and with SET or what `--methods` names. A round is
one interval of
topology updates for each, update included, in blocks of a few steps whose
order is drawn again. Ratios are of the same round. Steps are calls of the
compiled train function on a fixed batch: no input pipeline is timed.

Beside the clock, ratios of processor time are shown (`cpu`): on a machine
shared with others they are the steadier figure.

`--part=optimizer` times only what follows the gradients: the optimizer alone
against the optimizer between masks and projection.
"""

import functools

import common
import keras
import numpy as np
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
from common import shown
from common import spread
from common import timed

import keras_freetickets as kft
from keras_freetickets import topology

flags.adopt_module_key_flags(common)
flags.DEFINE_list("networks", ["mlp", "small_cnn"], "Names in common.py.")
flags.DEFINE_list("methods", ["RigL", "SET"], "Methods; all: the family.")
flags.DEFINE_list("optimizers", ["sgd", "adam"], "SGD with momentum, Adam.")
flags.DEFINE_list(
    "modes",
    ["graph", "xla"],
    "How the step is compiled. JAX knows xla alone.",
)
flags.DEFINE_enum("part", "step", ["step", "optimizer"], "What is timed.")
flags.DEFINE_integer("rounds", 7, "Intervals of each model.", lower_bound=1)
flags.DEFINE_integer("interval", 100, "Steps from update to update.", 2)
flags.DEFINE_integer("block", 10, "Steps of a model at a time.", 1)
flags.DEFINE_integer("batch_size", 0, "0 for the network's usual.", 0)
flags.DEFINE_float("sparsity", 0.8, "Share of weights to remove.", 0, 1)
flags.DEFINE_enum(
    "mixed_precision",
    "float32",
    ["float32", "mixed_bfloat16", "mixed_float16"],
    "Keras dtype policy of all models.",
)
flags.register_validator(
    "methods",
    lambda names: names == ["all"] or set(names) <= set(METHODS),
    "must be names of METHODS in this file, or all",
)
flags.DEFINE_string(
    "profile",
    None,
    "Folder for a profile of one interval of the last method, at the end.",
)

# A method of each kind, for runs without an end.
METHODS = {
    "RigL": lambda: topology.RigL(),
    "SET": lambda: topology.SET(),
    "SNFS": lambda: topology.SNFS(),
    "DST-EE": lambda: topology.DSTEE(),
    "GMP": lambda: topology.GMP(FLAGS.sparsity, _NEVER),
    "GraNet": lambda: topology.GraNet(FLAGS.sparsity, _NEVER),
    "NDSNN": lambda: topology.NDSNN(FLAGS.sparsity, _NEVER),
    "N:M": lambda: topology.NM(1, 4),
    "SRigL": lambda: topology.SRigL(),
    "AGENT": lambda: topology.AGENT(),
    "CigL": lambda: topology.CigL(),
    "MOON": lambda: topology.RigL(),
}
_NEVER = 1_000_000
BASELINE = "dense"
CONTROL = "dense again"


class Steps:
    """Calls of one model's compiled train function on a fixed batch."""

    def __init__(self, model, data):
        self.model = model
        self.data = data
        # Builds, traces, compiles; the update included, being due at once.
        if getattr(model, "method", None) is not None:
            model.update_state.next_update.assign(0)
        for _ in range(3):
            model.train_on_batch(*data)
        self.state = self._values()

    def _values(self):
        model = self.model
        return tuple(
            [variable.value for variable in group]
            for group in (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )
        )

    def __call__(self, count):
        """Runs `count` steps; returns when they are done."""
        run = self.model.train_function
        if backend() == "jax":
            import jax

            for _ in range(count):
                _, self.state = run(self.state, iter([(*self.data, None)]))
            jax.block_until_ready(self.state)
            return
        for _ in range(count):
            logs = run(iter([(*self.data, None)]))
        logs["loss"].numpy()

    def updates(self):
        """Topology updates so far."""
        model = self.model
        if getattr(model, "method", None) is None:
            return 0
        count = model.update_state.update_count
        if backend() == "jax":
            others = [id(v) for v in model.non_trainable_variables]
            return int(self.state[1][others.index(id(count))])
        return int(keras.ops.convert_to_numpy(count.value))


class OptimizerSteps(Steps):
    """Calls of what follows the gradients, on fixed gradients."""

    def __init__(self, model, data, jit_compile):
        self.model = model
        variables = model.trainable_variables
        model.optimizer.build(variables)
        rng = np.random.default_rng(FLAGS.seed)
        self.gradients = [
            keras.ops.convert_to_tensor(
                1e-3 * rng.standard_normal(v.shape).astype("float32")
            )
            for v in variables
        ]
        if getattr(model, "method", None) is not None:
            model.update_state.next_update.assign(0)
        sparse = isinstance(model, kft.SparseModel)
        if backend() == "jax":
            self.state = self._values()[:3]
            run = self._sparse_on_jax if sparse else self._dense_on_jax
            self.run = program(run)
        else:
            run = self._sparse if sparse else self._dense
            self.run = program(run, jit_compile)
        self(3)

    def _sparse(self, gradients):
        self.model.apply_gradients(gradients)
        return self.model.optimizer.iterations.value

    def _dense(self, gradients):
        optimizer = self.model.optimizer
        optimizer.apply(gradients, self.model.trainable_variables)
        return optimizer.iterations.value

    def _sparse_on_jax(self, state, gradients):
        return self.model.stateless_apply(*state, gradients)

    def _dense_on_jax(self, state, gradients):
        trainable, others, slots = state
        trainable, slots = self.model.optimizer.stateless_apply(
            slots, gradients, trainable
        )
        return trainable, others, slots

    def __call__(self, count):
        for _ in range(count):
            if backend() == "jax":
                self.state = self.run(self.state, self.gradients)
            else:
                self.run(self.gradients)


def sparse_network(name, method):
    """The sparse network that a method begins with."""
    arguments = {"sparsity": FLAGS.sparsity}
    if method == "GMP":
        arguments = {"sparsity": 0.0}
    elif method in ("GraNet", "NDSNN"):
        arguments = {"sparsity": FLAGS.sparsity / 2}
    elif method == "N:M":
        mask = topology.NMMask(1, 4)
        arguments = {
            "sparsity": lambda layer: (
                mask.sparsity if _divisible(layer, mask) else None
            ),
            "mask_initializer": mask,
        }
    elif method == "SRigL":
        arguments["mask_initializer"] = topology.ConstantFanInMask()
    return kft.sparsify(network(name), seed=FLAGS.seed, **arguments)


def _divisible(layer, mask):
    return layer.kernel.shape[mask.axis] % mask.m == 0


def attach(model, name):
    """Gives a model a method whose updates come once an interval."""
    method = METHODS[name]()
    # Where the weights rest in the step of an update, that step is none of
    # the optimizer's, which counts the interval.
    method.update_interval = FLAGS.interval - (not method.apply_on_update)
    method.seed = FLAGS.seed
    if name == "MOON":
        model.set_objective(kft.losses.MOON(1000, from_logits=True))
    model.attach(method)


def models(name, optimizer, jit_compile):
    """The models that take turns, compiled, by name."""
    keras.config.set_dtype_policy(FLAGS.mixed_precision)
    found = {BASELINE: network(name), CONTROL: network(name)}
    methods = list(METHODS) if FLAGS.methods == ["all"] else FLAGS.methods
    for method in methods:
        found[method] = sparse_network(name, method)
    if FLAGS.part == "optimizer":
        found["static"] = kft.sparsify(
            network(name), FLAGS.sparsity, seed=FLAGS.seed
        )
    for model in found.values():
        compile_model(model, optimizer, jit_compile)
    for method in methods:
        attach(found[method], method)
    return found


def measure(runners):
    """Mean step of each round, clock and processors, ms, by name."""
    rng = np.random.default_rng(FLAGS.seed)
    names = list(runners)
    blocks = [FLAGS.block] * (FLAGS.interval // FLAGS.block)
    if FLAGS.interval % FLAGS.block:
        blocks.append(FLAGS.interval % FLAGS.block)
    updates = {name: steps.updates() for name, steps in runners.items()}
    means = {name: [] for name in names}
    for _ in range(FLAGS.rounds):
        totals = {name: np.zeros(2) for name in names}
        for count in blocks:
            for name in map(str, rng.permutation(names)):
                totals[name] += timed(runners[name], count)
        for name in names:
            means[name].append(totals[name] / FLAGS.interval)
    for name, steps in runners.items():
        took_place = steps.updates() - updates[name]
        if updates[name] and took_place != FLAGS.rounds:
            raise RuntimeError(f"{name}: {took_place} updates")
    return {name: np.array(values) for name, values in means.items()}


def summary(means, baseline=BASELINE):
    """Figures of each model: milliseconds, ratios to the dense one."""
    rows = {}
    for name, values in means.items():
        ratios = values / means[baseline]
        rows[name] = {
            "step_ms": spread(values[:, 0]),
            "ratio": spread(ratios[:, 0]),
            "cpu_ratio": spread(ratios[:, 1]),
        }
    return rows


def show(title, rows):
    print(f"\n{title}")
    columns = ("ms a step", "ratio", "cpu ratio")
    print(f"{'':14}" + "".join(f"{column:>30}" for column in columns))
    for name, row in rows.items():
        cells = [
            shown(row["step_ms"]),
            shown(row["ratio"]),
            shown(row["cpu_ratio"]),
        ]
        print(f"{name:14}" + "".join(f"{cell:>30}" for cell in cells))


def profile(steps):
    """Writes a profile of one interval, to look for host transfers in."""
    if backend() == "jax":
        import jax

        with jax.profiler.trace(FLAGS.profile):
            steps(FLAGS.interval)
        return
    import tensorflow as tf

    tf.profiler.experimental.start(FLAGS.profile)
    steps(FLAGS.interval)
    tf.profiler.experimental.stop()


def main(_):
    report = new_report()
    modes = ["xla"] if backend() == "jax" else FLAGS.modes
    steps = None
    for name in FLAGS.networks:
        data = batch(name, FLAGS.batch_size)
        for optimizer in FLAGS.optimizers:
            for mode in modes:
                jit_compile = mode == "xla"
                found = models(name, optimizer, jit_compile)
                make = Steps
                if FLAGS.part == "optimizer":
                    make = functools.partial(
                        OptimizerSteps, jit_compile=jit_compile
                    )
                runners = {n: make(m, data) for n, m in found.items()}
                steps = list(runners.values())[-1]
                rows = summary(measure(runners))
                case = {"network": name, "optimizer": optimizer, "mode": mode}
                weights = found[BASELINE].count_params()
                title = ", ".join(case.values())
                show(f"{title}, {weights:,} weights, {FLAGS.part}", rows)
                for model, row in rows.items():
                    report["rows"].append({**case, "model": model, **row})
                save(report)
    if FLAGS.profile and steps is not None:
        profile(steps)


if __name__ == "__main__":
    app.run(main)
