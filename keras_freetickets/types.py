"""Names for type annotations, where Python's own types would say too little."""

import os
import typing

# A backend's tensor, a NumPy array, or nested lists of numbers: what the
# functions of `keras.ops` take.
Tensor = typing.Any
# A layer's shape: `None` stands for a size that is left open.
Shape = tuple[int | None, ...]
PathLike = str | os.PathLike[str]
