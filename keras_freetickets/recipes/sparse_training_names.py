"""The names that `sparse_training` takes.

This file imports nothing: a script that checks its flags before Keras is
imported, which takes seconds, reads it by `runpy.run_path`.
"""

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
