"""Every private attribute of Keras that this package relies on.

Each function says which Keras behavior it relies on, so that a change in a
new release needs a fix in a single place. The four files are about layers,
graphs of layers, optimizers and trainers.
"""

from keras.src.models.functional import Functional
from keras.src.models.functional import functional_like_constructor

from keras_freetickets.keras_adapter.graph import RefusesLegacyFiles
from keras_freetickets.keras_adapter.graph import copy_adapted_state
from keras_freetickets.keras_adapter.graph import ends_of_graph
from keras_freetickets.keras_adapter.graph import freeze_parts
from keras_freetickets.keras_adapter.graph import frozen_parts
from keras_freetickets.keras_adapter.graph import name_by_layers
from keras_freetickets.keras_adapter.graph import new_input
from keras_freetickets.keras_adapter.graph import origin
from keras_freetickets.keras_adapter.graph import paired_layers
from keras_freetickets.keras_adapter.graph import paired_variables
from keras_freetickets.keras_adapter.graph import refuse_legacy_config
from keras_freetickets.keras_adapter.graph import rerun
from keras_freetickets.keras_adapter.graph import summary
from keras_freetickets.keras_adapter.layers import adapted_layers
from keras_freetickets.keras_adapter.layers import adopt_call_signature
from keras_freetickets.keras_adapter.layers import attention_projections
from keras_freetickets.keras_adapter.layers import build_as_called
from keras_freetickets.keras_adapter.layers import build_by_shapes
from keras_freetickets.keras_adapter.layers import build_for_call
from keras_freetickets.keras_adapter.layers import build_from_batch
from keras_freetickets.keras_adapter.layers import builds_itself
from keras_freetickets.keras_adapter.layers import config_of
from keras_freetickets.keras_adapter.layers import copy_own_adapted_state
from keras_freetickets.keras_adapter.layers import default
from keras_freetickets.keras_adapter.layers import first_value
from keras_freetickets.keras_adapter.layers import infers_shapes
from keras_freetickets.keras_adapter.layers import inner_layers
from keras_freetickets.keras_adapter.layers import inner_names
from keras_freetickets.keras_adapter.layers import mask_of
from keras_freetickets.keras_adapter.layers import momentum
from keras_freetickets.keras_adapter.layers import name_beside
from keras_freetickets.keras_adapter.layers import own_trained
from keras_freetickets.keras_adapter.layers import own_variables
from keras_freetickets.keras_adapter.layers import quantized_by
from keras_freetickets.keras_adapter.layers import replace_projections
from keras_freetickets.keras_adapter.layers import seed_states
from keras_freetickets.keras_adapter.layers import set_first_value
from keras_freetickets.keras_adapter.layers import set_mask
from keras_freetickets.keras_adapter.layers import set_trainable
from keras_freetickets.keras_adapter.layers import stored_weight
from keras_freetickets.keras_adapter.layers import sublayers
from keras_freetickets.keras_adapter.layers import trusting
from keras_freetickets.keras_adapter.layers import unlocked
from keras_freetickets.keras_adapter.optimizers import accumulation_steps
from keras_freetickets.keras_adapter.optimizers import accumulators
from keras_freetickets.keras_adapter.optimizers import keeps_zeros
from keras_freetickets.keras_adapter.optimizers import learning_rate_schedule
from keras_freetickets.keras_adapter.optimizers import loss_scale
from keras_freetickets.keras_adapter.optimizers import makes_idle_weights_nan
from keras_freetickets.keras_adapter.optimizers import optimizer_slots
from keras_freetickets.keras_adapter.optimizers import plain_optimizers
from keras_freetickets.keras_adapter.optimizers import shared_counters
from keras_freetickets.keras_adapter.optimizers import takes_gradient_as_value
from keras_freetickets.keras_adapter.tracing import exact_moments
from keras_freetickets.keras_adapter.tracing import has_values
from keras_freetickets.keras_adapter.tracing import wrapped_calls
from keras_freetickets.keras_adapter.trainer_state import STATE
from keras_freetickets.keras_adapter.trainer_state import BuildsMembers
from keras_freetickets.keras_adapter.trainer_state import CompilesAnywhere
from keras_freetickets.keras_adapter.trainer_state import KeepsState
from keras_freetickets.keras_adapter.trainer_state import PacksState
from keras_freetickets.keras_adapter.trainer_state import begin_at_epoch
from keras_freetickets.keras_adapter.trainer_state import build_training
from keras_freetickets.keras_adapter.trainer_state import call_model
from keras_freetickets.keras_adapter.trainer_state import compilation
from keras_freetickets.keras_adapter.trainer_state import compiled_as
from keras_freetickets.keras_adapter.trainer_state import compiled_loss
from keras_freetickets.keras_adapter.trainer_state import compiled_metrics
from keras_freetickets.keras_adapter.trainer_state import compute_loss
from keras_freetickets.keras_adapter.trainer_state import improvement_of
from keras_freetickets.keras_adapter.trainer_state import in_stateless_scope
from keras_freetickets.keras_adapter.trainer_state import own_step
from keras_freetickets.keras_adapter.trainer_state import penalties
from keras_freetickets.keras_adapter.trainer_state import print_message
from keras_freetickets.keras_adapter.trainer_state import reset_train_function
from keras_freetickets.keras_adapter.trainer_state import set_direction
from keras_freetickets.keras_adapter.trainer_state import synchronize
from keras_freetickets.keras_adapter.trainer_state import track_loss
from keras_freetickets.keras_adapter.trainer_state import updated_by_call
from keras_freetickets.keras_adapter.trainer_state import updated_metrics

__all__ = [
    "STATE",
    "BuildsMembers",
    "CompilesAnywhere",
    "Functional",
    "KeepsState",
    "PacksState",
    "RefusesLegacyFiles",
    "accumulation_steps",
    "accumulators",
    "adapted_layers",
    "adopt_call_signature",
    "attention_projections",
    "begin_at_epoch",
    "build_as_called",
    "build_by_shapes",
    "build_for_call",
    "build_from_batch",
    "build_training",
    "builds_itself",
    "call_model",
    "compilation",
    "compiled_as",
    "compiled_loss",
    "compiled_metrics",
    "compute_loss",
    "config_of",
    "copy_adapted_state",
    "copy_own_adapted_state",
    "default",
    "ends_of_graph",
    "exact_moments",
    "first_value",
    "freeze_parts",
    "frozen_parts",
    "functional_like_constructor",
    "has_values",
    "improvement_of",
    "in_stateless_scope",
    "infers_shapes",
    "inner_layers",
    "inner_names",
    "keeps_zeros",
    "learning_rate_schedule",
    "loss_scale",
    "makes_idle_weights_nan",
    "mask_of",
    "momentum",
    "name_beside",
    "name_by_layers",
    "new_input",
    "optimizer_slots",
    "origin",
    "own_step",
    "own_trained",
    "own_variables",
    "paired_layers",
    "paired_variables",
    "penalties",
    "plain_optimizers",
    "print_message",
    "quantized_by",
    "refuse_legacy_config",
    "replace_projections",
    "rerun",
    "reset_train_function",
    "seed_states",
    "set_direction",
    "set_first_value",
    "set_mask",
    "set_trainable",
    "shared_counters",
    "stored_weight",
    "sublayers",
    "summary",
    "synchronize",
    "takes_gradient_as_value",
    "track_loss",
    "trusting",
    "unlocked",
    "updated_by_call",
    "updated_metrics",
    "wrapped_calls",
]
