"""Models of few bits in small files."""

import io
import zipfile

import h5py

from keras_freetickets.arguments import check_model
from keras_freetickets.files import atomic_path
from keras_freetickets.types import Model
from keras_freetickets.types import PathLike

_WEIGHTS = "model.weights.h5"


def save(model: Model, path: PathLike) -> None:
    """Saves a model as Keras does, and compresses the file.

    Keras stores the parts of a `.keras` file as they are. Codes of 2 bits for
    three values, most of them zero, are compressed well, without loss, and so
    are the tables of HDF5 around them, in their newer form (HDF5 1.8, of
    2008). `keras.saving.load_model` reads the file.

    Args:
        model: A Keras model, for example one of discrete layers.
        path: Path that ends in `.keras`.

    Raises:
        TypeError: If `model` is not a model of Keras 3.
        ValueError: If `path` does not end in `.keras`.

    Example:

    ```python
    kft.discrete.save(search.model, "ternary.keras")
    model = keras.saving.load_model("ternary.keras")
    ```
    """
    check_model("model", model)
    if not str(path).endswith(".keras"):
        raise ValueError(
            f"`path` must end in '.keras'. Received: path={str(path)!r}"
        )
    with atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts[_WEIGHTS] = _small_tables(parts[_WEIGHTS])
        with zipfile.ZipFile(
            temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9
        ) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)


def _small_tables(weights: bytes) -> bytes:
    """The arrays of an HDF5 file in a new one.

    Attributes of groups are names of layers, which Keras writes and does not
    read. HDF5 keeps 4 kB for their text.
    """
    target = io.BytesIO()
    with (
        h5py.File(io.BytesIO(weights)) as old,
        h5py.File(target, "w", libver=("v108", "v108")) as new,
    ):

        def copy(name, item):
            if isinstance(item, h5py.Group):
                new.create_group(name)
            else:
                old.copy(item, new, name)

        old.visititems(copy)
    return target.getvalue()
