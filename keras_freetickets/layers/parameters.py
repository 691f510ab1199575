"""Counts the parameters of a model: weights, without masks and counters.

Masks, the state of connections and the counters of a run are variables of the
model so that they are saved with it; Keras would count them as parameters.
"""

import math
from collections.abc import Callable

import keras
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.layers.update_state import UpdateState
from keras_freetickets.types import KerasMixin
from keras_freetickets.types import Model


def _size(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def _parts(model, kind):
    parts = keras_adapter.sublayers(model)
    return [part for part in parts if isinstance(part, kind)]


def _found(model, choose):
    """Variables that `choose` finds in a model and, stacked, in ensembles."""
    found = choose(model)
    for part in _parts(model, keras.Model):
        if hasattr(part, "stacks_of"):
            found = found + part.stacks_of(choose)
    return found


def _masks(model):
    masked_kernels = [
        r for part in _parts(model, Sparse) for r in part.masked_kernels
    ]
    return [masked.mask for masked in masked_kernels]


def _notes(model):
    """Variables that are not parameters."""
    found = _masks(model)
    for part in _parts(model, Compressed):
        found += part.position_variables
    for part in _parts(model, UpdateState):
        found += part.weights
    for part in _parts(model, Sparse):
        for masked in part.masked_kernels:
            found += masked.state.values()
    return found


def no_parameters(model: Model) -> set[int]:
    """Ids of the variables of a model that are not parameters."""
    return {id(variable) for variable in _found(model, _notes)}


def count_parameters(model: Model) -> int:
    """Number of weights of a built model, an integer."""
    hidden = no_parameters(model)
    return _size(v for v in model.weights if id(v) not in hidden)


def count_active(model: Model) -> int:
    """Number of weights that are not masked out, an integer."""
    masks = [ops.convert_to_numpy(mask.value) for mask in _found(model, _masks)]
    inactive = sum(mask.size - int(mask.sum()) for mask in masks)
    return count_parameters(model) - inactive - _spare(model)


def _spare(model):
    """Values of compressed kernels that no active weight takes."""
    room = sum(_size([v]) for v in _found(model, _values))
    ends = [ops.convert_to_numpy(v.value) for v in _found(model, _ends)]
    return room - sum(int(end[..., -1].sum()) for end in ends)


def _values(model):
    return [part.values for part in _parts(model, Compressed)]


def _ends(model):
    return [part.row_pointers for part in _parts(model, Compressed)]


def _kind(layer):
    """The class name that a summary shows; `None` to leave the layer out."""
    if isinstance(layer, UpdateState):
        return None
    kind = type(layer).__name__
    if isinstance(layer, Sparse):
        return f"{kind}({type(layer.layer).__name__})"
    return kind


class CountsParameters(KerasMixin):
    """A model whose `count_params` and `summary` do not count masks."""

    def count_params(self) -> int:
        """Number of the model's weights, excluding masks and counters.

        Returns:
            Integer.
        """
        return count_parameters(self)

    def summary(
        self,
        line_length: int | None = None,
        positions: list | None = None,
        print_fn: Callable | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: list | None = None,
    ) -> None:
        """Prints Keras' summary and the number of active parameters.

        Masks are not counted. `keras_freetickets.sparsity_summary` shows
        which kernels are sparse, and why the others are not.

        Args:
            line_length: As for `keras.Model.summary`.
            positions: As for `keras.Model.summary`.
            print_fn: As for `keras.Model.summary`.
            expand_nested: As for `keras.Model.summary`.
            show_trainable: As for `keras.Model.summary`.
            layer_range: As for `keras.Model.summary`.
        """
        keras_adapter.synchronize(self)
        show = print if print_fn is None else print_fn
        self._print_summary(
            show,
            line_length=line_length,
            positions=positions,
            print_fn=print_fn,
            expand_nested=expand_nested,
            show_trainable=show_trainable,
            layer_range=layer_range,
        )
        if self.built:
            share = f"{count_active(self):,} of {self.count_params():,}"
            show(f" Active params: {share}; masks are not counted")

    def _print_summary(self, show, **kwargs):
        keras_adapter.summary(self, no_parameters(self), _kind, **kwargs)
