"""Sparse-training methods: subclasses of `Method` that override its hooks.

To add one, write a class with `@register("its_name")` and import it here.
"""

from keras_freetickets.topology.methods.agent import AGENT
from keras_freetickets.topology.methods.chase import Chase
from keras_freetickets.topology.methods.cigl import CigL
from keras_freetickets.topology.methods.dst_ee import DSTEE
from keras_freetickets.topology.methods.method import Method
from keras_freetickets.topology.methods.method import is_kernelwise
from keras_freetickets.topology.methods.ramp import GMP
from keras_freetickets.topology.methods.ramp import NDSNN
from keras_freetickets.topology.methods.ramp import GraNet
from keras_freetickets.topology.methods.registry import get
from keras_freetickets.topology.methods.registry import method_names
from keras_freetickets.topology.methods.registry import register
from keras_freetickets.topology.methods.rigl import ITOP
from keras_freetickets.topology.methods.rigl import RigL
from keras_freetickets.topology.methods.set import SET
from keras_freetickets.topology.methods.snfs import SNFS
from keras_freetickets.topology.methods.structured import NM
from keras_freetickets.topology.methods.structured import SRigL

__all__ = [
    "AGENT",
    "DSTEE",
    "GMP",
    "ITOP",
    "NDSNN",
    "NM",
    "SET",
    "SNFS",
    "Chase",
    "CigL",
    "GraNet",
    "Method",
    "RigL",
    "SRigL",
    "get",
    "is_kernelwise",
    "method_names",
    "register",
]
