#!/usr/bin/env bash
# KerasHub 0.32.0, Keras 3.15.1, TensorFlow 2.21.0.
#
# A head on the output of a backbone, as in transfer learning: with ViT the
# model is saved and cannot be loaded, with Llama it cannot be saved.
#
# One would have guessed: a model of a backbone's inputs and outputs is saved
# and loaded as that backbone is, which works.
# What happens: such a model is saved layer by layer. The config of ViT's
# patches names num_patches, which its constructor does not take; that of
# Llama's decoder asks for an attribute that it does not have. The backbones
# save their own arguments in place of their layers, so do not notice.
# (Call the backbone as one layer: keras.Model(inputs, head(backbone(inputs))).)
#
# Output seen:
#   ViTBackbone: the backbone is loaded; as a graph: TypeError when loaded
#   LlamaBackbone: the backbone is loaded; as a graph: AttributeError when saved
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
  keras-hub==0.32.0 keras==3.15.1 tensorflow==2.21.0
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import keras_hub

BACKBONES = {
    "ViTBackbone": dict(
        image_shape=(16, 16, 3),
        patch_size=(8, 8),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
    ),
    "LlamaBackbone": dict(
        vocabulary_size=50,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
    ),
}


def what_happens(model):
    step = "saved"
    try:
        model.save("model.keras")
        step = "loaded"
        keras.saving.load_model("model.keras")
    except Exception as error:
        return f"{type(error).__name__} when {step}"
    return "loaded"


found = []
for name, arguments in BACKBONES.items():
    backbone = getattr(keras_hub.models, name)(**arguments)
    graph = keras.Model(backbone.input, keras.layers.Dense(3)(backbone.output))
    found += [what_happens(backbone), what_happens(graph)]
    print(f"{name}: the backbone is {found[-2]}; as a graph: {found[-1]}")
sys.exit(
    found
    != [
        "loaded",
        "TypeError when loaded",
        "loaded",
        "AttributeError when saved",
    ]
)
PYTHON
