"""Names for type annotations that say more than Python's own types.

The class of a tensor or a variable depends on Keras' backend. These names say
what is meant; for a type checker most of them mean `Any`.
"""

import os
import typing
from collections.abc import Sequence

# A backend's tensor, a NumPy array, or nested lists of numbers: what the
# functions of `keras.ops` take.
Tensor = typing.Any
Tensors = list[Tensor]
# A layer's shape; `None` is an unknown size.
Shape = tuple[int | None, ...]
PathLike = str | os.PathLike[str]

Array = typing.Any  # a NumPy array, or anything that NumPy converts to one
Variable = typing.Any  # a `keras.Variable`
Layer = typing.Any  # a `keras.Layer`
Model = typing.Any  # a `keras.Model`
Optimizer = typing.Any  # a `keras.optimizers.Optimizer`
# A batch `(x, y, sample_weight)`; `sample_weight` may be `None`.
Batch = tuple[typing.Any, typing.Any, typing.Any]
# A gradient for each variable; `None` if it does not affect the loss.
Gradients = Sequence[Tensor | None]
Logs = dict[str, typing.Any]  # names and values of the metrics of a step
if typing.TYPE_CHECKING:
    # Base of mixins that precede a Keras class in the list of bases.
    KerasMixin = typing.Any
else:
    KerasMixin = object
Config = dict[str, typing.Any]  # what `get_config` returns
