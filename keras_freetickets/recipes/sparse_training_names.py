"""The names that `sparse_training` takes."""

SPARSE_TRAININGS = (
    "agent",
    "cigl",
    "dense",
    "dst_ee",
    "gmp",
    "granet",
    "itop_rigl",
    "itop_set",
    "moon",
    "ndsnn",
    "nm",
    "rigl",
    "set",
    "snfs",
    "srigl",
    "static",
)
