"""The flags that the training scripts share."""

from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_integer(
    "seed", 0, "Seed of weights, masks and data order.", 0, 2**31 - 1
)
flags.DEFINE_integer(
    "batch_size", 128, "Images in a batch (FreeTickets: 128).", lower_bound=1
)
flags.DEFINE_integer(
    "verbose", 2, "0: silent, 1: progress bar, 2: one line per epoch.", 0, 2
)

_MODELS = (
    "small_cnn",
    "lenet_300_100",
    "wide_resnet",
    "spiking_cnn",
    "spiking_vgg16",
    "spiking_resnet19",
)


def define(output_dir: str) -> None:
    """Defines the flags of data, network, optimizer and sparsity."""
    _define_data(output_dir)
    _define_network()
    flags.DEFINE_float(
        "sparsity", 0.8, "Fraction of weights removed.", 0, 0.9999
    )
    flags.DEFINE_enum(
        "distribution",
        "erk",
        ["erk", "er", "uniform"],
        "How sparsity is distributed over the layers.",
    )
    flags.DEFINE_enum(
        "growth",
        "gradient",
        ["gradient", "random"],
        "How new connections are chosen.",
    )
    flags.DEFINE_integer(
        "update_interval",
        None,
        "Optimizer updates between topology updates. Default: a 40th of those "
        "in which the topology changes (the whole run in train_dst.py, the "
        "first three quarters in train_sparse.py, the exploration in "
        "train_edst.py), at most 1000 (FreeTickets). In train_ensemble.py the "
        "default is the method's.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "drop_fraction",
        0.5,
        "Fraction of connections replaced by a topology update.",
        0.0,
        1.0,
    )


def define_storage() -> None:
    """Defines the flag of scripts that train one model at a time."""
    flags.DEFINE_enum(
        "storage",
        "mask",
        ["mask", "compressed"],
        "Whether kernels are dense, with a mask, or hold active weights alone: "
        "faster and smaller on processors, for dense layers from a sparsity of "
        "0.8 on (docs/real_sparsity.md).",
    )


def _define_data(output_dir: str) -> None:
    flags.DEFINE_string("output_dir", output_dir, "Where all files go.")
    flags.DEFINE_string(
        "dataset",
        "optdigits",
        "A TFDS image-classification dataset, or optdigits.",
    )
    flags.DEFINE_string("data_dir", None, "Where the prepared dataset is.")
    flags.DEFINE_bool("download", False, "Let TFDS download and prepare it.")
    flags.DEFINE_float(
        "validation_fraction",
        0.1,
        "Fraction of the training images used for validation, the last ones.",
        0.001,
        0.9,
    )
    flags.register_validator(
        "dataset", lambda name: bool(name), "must name a dataset"
    )


def _define_network() -> None:
    flags.DEFINE_enum("model", "small_cnn", _MODELS, "The network.")
    flags.DEFINE_integer(
        "depth", 28, "Depth of wide_resnet: 6n + 4.", lower_bound=10
    )
    flags.DEFINE_integer("width", 10, "Width of wide_resnet.", lower_bound=1)
    flags.DEFINE_float(
        "learning_rate", 0.1, "Learning rate of SGD.", lower_bound=1e-9
    )
    flags.DEFINE_float("momentum", 0.9, "Momentum of SGD.", 0.0, 0.9999)
    flags.DEFINE_float(
        "weight_decay", 2.5e-4, "L2 factor (PyTorch: 5e-4).", lower_bound=0.0
    )
    flags.register_validator(
        "depth", lambda depth: (depth - 4) % 6 == 0, "must be 6n + 4"
    )


def update_interval(steps: int) -> int:
    """--update_interval, or a 40th of the steps if it is not given."""
    if FLAGS.update_interval is not None:
        return FLAGS.update_interval
    return min(max(steps // 40, 1), 1000)


def check_interval(interval: int, phases: dict[str, int]) -> None:
    """Refuses a run in which a phase would have no topology update.

    Args:
        interval: Optimizer updates between topology updates.
        phases: Dict from the name of a phase to its optimizer updates.
    """
    for name, steps in phases.items():
        if interval > steps:
            raise SystemExit(
                f"--update_interval={interval} is longer than the {name}, "
                f"which has {steps} optimizer updates: no topology update "
                "would take place. Give a shorter interval or more epochs."
            )
