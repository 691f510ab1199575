"""A script for a process in which Keras is `tf_keras` (Keras 2).

Reads a model that tensorflow-model-optimization (tfmot) has pruned, takes its
wrappers off and writes what Keras 3 reads. It imports nothing of this package,
whose Keras is Keras 3: the two do not mix. `tfmot_files.py` starts it.
"""

import json
import os
import sys
import typing


def _pruned(layer: typing.Any) -> typing.Iterator[typing.Any]:
    """The wrappers of tfmot in a layer or model, inner ones too."""
    if hasattr(layer, "pruning_schedule"):
        yield layer
    for part in getattr(layer, "layers", []):
        yield from _pruned(part)


def _schedule(schedule: typing.Any) -> dict[str, typing.Any]:
    """A schedule as numbers: its values at all steps at which it prunes."""
    interval = schedule.frequency
    first = -(-schedule.begin_step // interval)
    end = schedule.end_step
    last = first + 1 if end < 0 else max(-(-end // interval), first + 1)
    steps = {number * interval for number in range(first, last + 1)}
    if end >= 0:
        steps = {min(step, end) for step in steps}
    return {
        "begin_step": schedule.begin_step,
        "end_step": end,
        "frequency": interval,
        "values": {str(s): float(schedule(s)[1]) for s in sorted(steps)},
    }


def main(path: str, folder: str) -> None:
    """Writes `model.h5` and `facts.json`.

    Args:
        path: File of a model of Keras 2.
        folder: Directory to write to.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow_model_optimization as tfmot
    import tf_keras

    with tfmot.sparsity.keras.prune_scope():
        model = tf_keras.models.load_model(path, compile=False)
    facts: dict[str, typing.Any] = {
        "layers": {},
        "schedule": None,
        "step": None,
    }
    for wrapper in _pruned(model):
        names = []
        for weight, mask, _ in wrapper.pruning_vars:
            # As the forward pass of tfmot does, after the last step too.
            weight.assign(weight * mask)
            names.append(weight.name.split("/")[-1].partition(":")[0])
        if not names:
            continue
        facts["layers"][wrapper.layer.name] = names
        facts["schedule"] = _schedule(wrapper.pruning_schedule)
        # tfmot counts from -1.
        facts["step"] = max(0, int(wrapper.pruning_step))
    stripped = tfmot.sparsity.keras.strip_pruning(model)
    stripped.save(os.path.join(folder, "model.h5"), include_optimizer=False)
    with open(os.path.join(folder, "facts.json"), "w") as file:
        json.dump(facts, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
