"""Names for type annotations, where Python's own types would say too little.

Which class a tensor or a variable is of depends on Keras' backend. These names
say what is meant; a type checker takes them for anything.
"""

import os
import typing
from collections.abc import Sequence

# A backend's tensor, a NumPy array, or nested lists of numbers: what the
# functions of `keras.ops` take.
Tensor = typing.Any
Tensors = list[Tensor]
# A layer's shape: `None` stands for a size that is left open.
Shape = tuple[int | None, ...]
PathLike = str | os.PathLike[str]

Array = typing.Any  # a NumPy array, or what NumPy makes one of
Variable = typing.Any  # a `keras.Variable`
Layer = typing.Any  # a `keras.Layer`
Model = typing.Any  # a `keras.Model`
Optimizer = typing.Any  # a `keras.optimizers.Optimizer`
# A batch `(x, y, sample_weight)`, of which the last may be `None`.
Batch = tuple[typing.Any, typing.Any, typing.Any]
# A gradient for each of some variables; `None` where the loss does not reach.
Gradients = Sequence[Tensor | None]
Logs = dict[str, typing.Any]  # names and values of the metrics of a step
if typing.TYPE_CHECKING:
    # Base of mixins that stand before a class of Keras.
    KerasMixin = typing.Any
else:
    KerasMixin = object
Config = dict[str, typing.Any]  # what `get_config` returns
