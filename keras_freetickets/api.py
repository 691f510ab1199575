"""The public names of `keras_freetickets`; importing this imports Keras."""

from keras_freetickets import applications
from keras_freetickets import attacks
from keras_freetickets import calibration
from keras_freetickets import callbacks
from keras_freetickets import contrastive
from keras_freetickets import curation
from keras_freetickets import datasets
from keras_freetickets import deployment
from keras_freetickets import discrete
from keras_freetickets import distillation
from keras_freetickets import ensembles
from keras_freetickets import graphs
from keras_freetickets import layers
from keras_freetickets import losses
from keras_freetickets import metrics
from keras_freetickets import multimodal
from keras_freetickets import plots
from keras_freetickets import recipes
from keras_freetickets import resolution
from keras_freetickets import sampling
from keras_freetickets import serving
from keras_freetickets import spiking
from keras_freetickets import topology
from keras_freetickets.deployment.exporting import export
from keras_freetickets.ensembles.ensemble_model import EnsembleModel
from keras_freetickets.inspection.overlap import mask_overlap
from keras_freetickets.inspection.summary import sparsity_summary
from keras_freetickets.inspection.units import count_units
from keras_freetickets.models.batch_normalization import (
    reestimate_batch_normalization,
)
from keras_freetickets.models.channels import channel_groups
from keras_freetickets.models.compaction import compact
from keras_freetickets.models.compression import compress
from keras_freetickets.models.compression import decompress
from keras_freetickets.models.conversion import sparsify
from keras_freetickets.models.conversion import strip
from keras_freetickets.models.mimo import MIMO
from keras_freetickets.models.pruning import prune
from keras_freetickets.models.side_by_side import SideBySide
from keras_freetickets.models.sparse_model import SparseModel
from keras_freetickets.models.tfmot_files import from_tfmot
from keras_freetickets.version import __version__

__all__: list[str] = [
    "MIMO",
    "EnsembleModel",
    "SideBySide",
    "SparseModel",
    "__version__",
    "applications",
    "attacks",
    "calibration",
    "callbacks",
    "channel_groups",
    "compact",
    "compress",
    "contrastive",
    "count_units",
    "curation",
    "datasets",
    "decompress",
    "deployment",
    "discrete",
    "distillation",
    "ensembles",
    "export",
    "from_tfmot",
    "graphs",
    "layers",
    "losses",
    "mask_overlap",
    "metrics",
    "multimodal",
    "plots",
    "prune",
    "recipes",
    "reestimate_batch_normalization",
    "resolution",
    "sampling",
    "serving",
    "sparsify",
    "sparsity_summary",
    "spiking",
    "strip",
    "topology",
]
