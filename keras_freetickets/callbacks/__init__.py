"""Callbacks: methods in `fit`, tickets, averages and backups."""

from keras_freetickets.callbacks.agent import AGENT
from keras_freetickets.callbacks.backup import Backup
from keras_freetickets.callbacks.cigl import CigL
from keras_freetickets.callbacks.composite import CompositeCallback
from keras_freetickets.callbacks.cost import TrainingCost
from keras_freetickets.callbacks.drop_and_grow import DropAndGrow
from keras_freetickets.callbacks.freetickets import DST
from keras_freetickets.callbacks.freetickets import EDST
from keras_freetickets.callbacks.gradient_snapshots import GradientSnapshots
from keras_freetickets.callbacks.moon import MOON
from keras_freetickets.callbacks.phases import Phase
from keras_freetickets.callbacks.phases import PhaseSchedule
from keras_freetickets.callbacks.presets import DSTEE
from keras_freetickets.callbacks.presets import GMP
from keras_freetickets.callbacks.presets import ITOP
from keras_freetickets.callbacks.presets import NDSNN
from keras_freetickets.callbacks.presets import NM
from keras_freetickets.callbacks.presets import SET
from keras_freetickets.callbacks.presets import SNFS
from keras_freetickets.callbacks.presets import Chase
from keras_freetickets.callbacks.presets import GraNet
from keras_freetickets.callbacks.presets import RigL
from keras_freetickets.callbacks.presets import SRigL
from keras_freetickets.callbacks.snapshot import Snapshot
from keras_freetickets.callbacks.ticket_checkpoint import TicketCheckpoint
from keras_freetickets.callbacks.ticket_checkpoint import TicketCollector
from keras_freetickets.callbacks.weight_averaging import WeightAveraging

__all__ = [
    "AGENT",
    "DST",
    "DSTEE",
    "EDST",
    "GMP",
    "ITOP",
    "MOON",
    "NDSNN",
    "NM",
    "SET",
    "SNFS",
    "Backup",
    "Chase",
    "CigL",
    "CompositeCallback",
    "DropAndGrow",
    "GraNet",
    "GradientSnapshots",
    "Phase",
    "PhaseSchedule",
    "RigL",
    "SRigL",
    "Snapshot",
    "TicketCheckpoint",
    "TicketCollector",
    "TrainingCost",
    "WeightAveraging",
]
