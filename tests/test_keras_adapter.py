import keras
import pytest

import keras_freetickets as kft
from keras_freetickets import keras_adapter


class _OfTorch:
    """Stands for a model that was compiled on PyTorch."""

    def get_compile_config(self):
        inner = {
            "module": "keras.src.backend.torch.optimizers.torch_sgd",
            "class_name": "SGD",
            "config": {"learning_rate": 0.25, "momentum": 0.5},
            "registered_name": "SGD",
        }
        scaling = {
            "module": "keras.optimizers",
            "class_name": "LossScaleOptimizer",
            "config": {"inner_optimizer": inner},
            "registered_name": None,
        }
        return {"optimizer": scaling, "loss": "mse", "metrics": [["mae"]]}


class _Portable(keras_adapter.CompilesAnywhere, _OfTorch):
    pass


def test_optimizers_of_pytorch_go_by_their_public_names():
    config = _Portable().get_compile_config()
    inner = config["optimizer"]["config"]["inner_optimizer"]
    found = keras.saving.deserialize_keras_object(inner)
    assert isinstance(found, keras.optimizers.SGD)
    assert (float(found.learning_rate), found.momentum) == (0.25, 0.5)
    assert (config["loss"], config["metrics"]) == ("mse", [["mae"]])


@pytest.mark.parametrize("kind", [kft.EnsembleModel, kft.SparseModel])
def test_models_that_are_saved_compiled_use_them(kind):
    assert issubclass(kind, keras_adapter.CompilesAnywhere)
