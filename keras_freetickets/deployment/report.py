"""What `export` says of the file that it wrote."""

import dataclasses
import json
import typing


@dataclasses.dataclass
class ExportReport:
    """What was written, how large it is and how far it is from its model.

    `print` shows it as a table.

    Args:
        path: String, the file or directory.
        format: String, as given to `export`.
        dtype: String, as given to `export`.
        bytes: Integer, the size of all files written.
        zeros: Float, the share of zeros among the stored weights that have
            two axes longer than one; `None` if not checked.
        difference: Float, the largest difference between an output of the
            file and of the model; `None` if not checked.
        relative_difference: Float, the root mean square of the differences,
            as a multiple of that of the outputs' deviations from their mean;
            `None` if not checked.
        inputs: String, what was predicted for: "representative data", or
            "random inputs"; `None` if not checked.
        runtime: String, what loaded the file; `None` if not checked.
        dense_bytes: Integer, the size of one dense network in this format and
            dtype: the model's, or that of the first member.
        note: String, what else is to be known; "" for nothing.

    Example:

    ```python
    report = keras_freetickets.export(model, "model.tflite")
    print(report.bytes / report.dense_bytes)
    ```
    """

    path: str
    format: str
    dtype: str
    bytes: int
    zeros: float | None
    difference: float | None
    relative_difference: float | None
    inputs: str | None
    runtime: str | None
    dense_bytes: int
    note: str = ""

    def to_json(self) -> str:
        """Returns the attributes as a JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> typing.Self:
        """Makes the report that `to_json` described."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        share = self.bytes / self.dense_bytes
        rows = [
            ("path", self.path),
            ("format", f"{self.format}, {self.dtype}"),
            ("bytes", f"{self.bytes:,}"),
            ("one dense network", f"{self.dense_bytes:,} ({share:.3f} of it)"),
        ]
        if self.zeros is not None:
            rows.append(("zeros", f"{self.zeros:.4f} of the weights"))
        if self.difference is not None:
            rows.append(
                (
                    "largest difference",
                    f"{self.difference:.2e} on {self.inputs} "
                    f"({self.relative_difference:.2e} relative)",
                )
            )
            rows.append(("loaded by", str(self.runtime)))
        else:
            rows.append(("largest difference", "not checked"))
        if self.note:
            rows.append(("note", self.note))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)
