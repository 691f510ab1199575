"""Measures the memory that sparse training takes beyond the dense model.

```shell
python benchmarks/memory.py --output=memory.json
```

Bytes are those of all variables, of model and optimizer, masks and counters
included: nothing is estimated. `per weight` is what a sparse model has more
than the dense one, for each maskable weight; `declared` is the part of it that
is a method's own state (`connection_state`) or was asked for
(`track_ever_active`).

What an update takes on top while it runs is in `update.py`.
"""

import common
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import compile_model
from common import network
from common import new_report
from common import save
from keras import ops

import keras_freetickets as kft
from keras_freetickets.topology import SET
from keras_freetickets.topology import RigL

flags.adopt_module_key_flags(common)
flags.DEFINE_string("network", "wrn-28-10", "A name in common.py.")
flags.DEFINE_list("optimizers", ["sgd", "adam"], "SGD with momentum, Adam.")
flags.DEFINE_float("sparsity", 0.8, "Share of weights to remove.", 0, 1)

# Name: the method and whether it is tracked what was ever active.
KINDS = {
    "dense": (None, False),
    "RigL": (RigL, False),
    "SET": (SET, False),
    "RigL, ever active": (RigL, True),
}


def variable_bytes(model):
    """Bytes of all variables of a model and its optimizer."""
    variables = [*model.variables, *model.optimizer.variables]
    return sum(ops.convert_to_numpy(v.value).nbytes for v in variables)


def declared_bytes(model):
    """Bytes of the state of connections beyond their masks."""
    return sum(
        ops.convert_to_numpy(variable.value).nbytes
        for record in getattr(model, "masked_kernels", [])
        for variable in record.state.values()
    )


def make(kind, optimizer):
    method, ever_active = KINDS[kind]
    model = network(FLAGS.network)
    if method is not None:
        model = kft.sparsify(model, FLAGS.sparsity, seed=FLAGS.seed)
    compile_model(model, optimizer, jit_compile="auto")
    model.optimizer.build(model.trainable_variables)
    if ever_active:
        model.run.track_ever_active()
    if method is not None:
        model.attach(method())
    return model


def measure(optimizer):
    """A row for each kind of model."""
    rows, dense = {}, None
    for kind in KINDS:
        model = make(kind, optimizer)
        total = variable_bytes(model)
        dense = total if dense is None else dense
        sizes = [r.size for r in getattr(model, "masked_kernels", [])]
        row = {
            "bytes": total,
            "beyond_dense": total - dense,
            "maskable": sum(sizes),
            "declared": declared_bytes(model),
        }
        if sizes:
            row["per_weight"] = row["beyond_dense"] / row["maskable"]
        rows[kind] = row
    return rows


def show(title, rows):
    print(f"\n{title}")
    names = ("MB", "beyond dense", "declared", "per weight")
    print(f"{'':20}" + "".join(f"{name:>14}" for name in names))
    for kind, row in rows.items():
        cells = [row["bytes"], row["beyond_dense"], row["declared"]]
        cells = [cell / 1e6 for cell in cells]
        cells.append(row.get("per_weight", np.nan))
        print(f"{kind:20}" + "".join(f"{cell:14.4f}" for cell in cells))


def main(_):
    report = new_report()
    for optimizer in FLAGS.optimizers:
        rows = measure(optimizer)
        show(f"{FLAGS.network}, {optimizer}", rows)
        for kind, row in rows.items():
            report["rows"].append({"optimizer": optimizer, "kind": kind, **row})
        save(report)


if __name__ == "__main__":
    app.run(main)
