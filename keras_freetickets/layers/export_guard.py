"""Keras' `export` of models with compressed layers, which is refused."""

import typing

from keras_freetickets import keras_adapter
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.types import PathLike


class GuardsExport:
    """Refuses `export` where a layer is compressed.

    Keras would write operations that are known to this process alone: the file
    would load nowhere.
    """

    @property
    def holds_compressed(self) -> bool:
        """Whether a layer, also of a model within, is compressed."""
        return any(
            isinstance(part, Compressed)
            or (part is not self and getattr(part, "holds_compressed", False))
            for part in keras_adapter.sublayers(typing.cast(typing.Any, self))
        )

    def export(
        self, filepath: PathLike, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        """As `keras.Model.export`.

        Args:
            filepath: Path to write.
            *args: As for `keras.Model.export`.
            **kwargs: As for `keras.Model.export`.

        Raises:
            ValueError: If a layer is compressed.
        """
        if self.holds_compressed:
            name = getattr(self, "name", "")
            raise ValueError(
                "A SavedModel has no kernels of compressed layers: call "
                "keras_freetickets.export(model, path), which writes dense "
                "ones, or serve by keras_freetickets.serving. Received: a "
                f"call of export for model {name!r}"
            )
        # Of `keras.Model`, which comes after this class.
        return super().export(filepath, *args, **kwargs)  # type: ignore
