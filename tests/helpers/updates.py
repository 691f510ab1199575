"""Runs one update of a method on NumPy arrays."""

import dataclasses

import numpy as np
from keras import ops

from keras_freetickets.trainers import update as updates


@dataclasses.dataclass
class Record:
    """What `Method.begin` reads of a `MaskedKernel`."""

    name: str
    kernel: np.ndarray
    mask: np.ndarray
    initial: int

    def mask_array(self):
        return self.mask

    @property
    def active(self):
        return int(self.mask.sum())

    @property
    def shape(self):
        return self.kernel.shape

    @property
    def size(self):
        return self.kernel.size


def network(shapes, densities, seed=0, scale=1.0):
    """Kernels, masks and gradients of normal random numbers."""
    generator = np.random.default_rng(seed)
    kernels, masks, gradients = [], [], []
    for shape, density in zip(shapes, densities, strict=True):
        size = int(np.prod(shape))
        mask = np.zeros(size, bool)
        mask[generator.permutation(size)[: round(size * density)]] = True
        mask = mask.reshape(shape)
        kernel = generator.normal(size=shape) * scale
        kernels.append(np.where(mask, kernel, 0).astype("float32"))
        masks.append(mask)
        gradients.append(generator.normal(size=shape).astype("float32"))
    return kernels, masks, gradients


def begin(method, kernels, masks):
    """Attaches a method to arrays."""
    method.begin(
        [
            Record(f"layer_{i}", k, m, int(m.sum()))
            for i, (k, m) in enumerate(zip(kernels, masks, strict=True))
        ]
    )
    return method


def inputs_of(kernels, masks, gradients, states=None, **scalars):
    """`Inputs` of NumPy arrays."""
    states = states or [{} for _ in kernels]
    scalars = {"fraction": 0.3, "step": 1000, "update": 1, **scalars}
    tensors = {
        name: ops.convert_to_tensor(
            np.asarray(value, "float32" if name == "fraction" else "int32")
        )
        for name, value in {"seed": 0, **scalars}.items()
    }
    return updates.KernelBatch(
        [ops.convert_to_tensor(k) for k in kernels],
        [ops.convert_to_tensor(m) for m in masks],
        [ops.convert_to_tensor(g) for g in gradients],
        [{n: ops.convert_to_tensor(v) for n, v in s.items()} for s in states],
        **tensors,
    )


def run(method, kernels, masks, gradients, states=None, **scalars):
    """The masks after one update, and what was kept, as NumPy arrays."""
    inputs = inputs_of(kernels, masks, gradients, states, **scalars)
    pairs = method.update(inputs.views(), inputs.fraction)
    kept = [ops.convert_to_numpy(k) for k, _ in pairs]
    grown = [ops.convert_to_numpy(g) for _, g in pairs]
    for k, g, m in zip(kept, grown, masks, strict=True):
        assert not (k & g).any()
        assert not (k & ~m).any()
    return [k | g for k, g in zip(kept, grown, strict=True)], kept
