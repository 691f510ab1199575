"""Models of KerasHub: sparse, pruned, stripped and in files.

Every backbone that numbers alone make small. Those that are made of other
backbones (CLIP, SAM, PaliGemma, ...) are not.
"""

import keras
import numpy as np
import pytest

import keras_freetickets as kft

models = pytest.importorskip("keras_hub").models
pytestmark = pytest.mark.slow

TEXT = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
DECODER = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
IMAGE = {"image_shape": (32, 32, 3)}
EXPERTS = {
    **DECODER,
    "moe_intermediate_dim": 8,
    "num_experts": 2,
    "head_dim": 4,
}
PATCHES = {"image_shape": (16, 16, 3), "num_layers": 2, "num_heads": 2}
BACKBONES = {
    "AlbertBackbone": {**TEXT, "embedding_dim": 8},
    "BartBackbone": TEXT,
    "BertBackbone": TEXT,
    "BloomBackbone": TEXT,
    "CSPNetBackbone": {
        **IMAGE,
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 1],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [8, 8],
        "block_type": "dark_block",
        "stage_type": "dark",
    },
    "DINOV2Backbone": {
        **PATCHES,
        "patch_size": 8,
        "hidden_dim": 8,
        "intermediate_dim": 16,
    },
    "DINOV3Backbone": {
        **PATCHES,
        "patch_size": 8,
        "hidden_dim": 8,
        "intermediate_dim": 16,
    },
    "DebertaV3Backbone": {**TEXT, "bucket_size": 8},
    "DeiTBackbone": {
        **PATCHES,
        "patch_size": (8, 8),
        "hidden_dim": 8,
        "intermediate_dim": 16,
    },
    "DenseNetBackbone": {
        **IMAGE,
        "stackwise_num_repeats": [1, 1],
        "growth_rate": 4,
    },
    "DistilBertBackbone": TEXT,
    "ESM2Backbone": TEXT,
    "EfficientNetBackbone": {
        **IMAGE,
        "stackwise_width_coefficients": [1.0, 1.0],
        "stackwise_depth_coefficients": [1.0, 1.0],
        "stackwise_kernel_sizes": [3, 3],
        "stackwise_num_repeats": [1, 1],
        "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 8],
        "stackwise_expansion_ratios": [1, 2],
        "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
        "stackwise_strides": [1, 2],
        "stackwise_block_types": ["v1", "v1"],
        "stackwise_force_input_filters": [0, 0],
        "stackwise_nores_option": [False, False],
    },
    "ElectraBackbone": {
        **{k: v for k, v in TEXT.items() if k != "vocabulary_size"},
        "vocab_size": 50,
        "embedding_dim": 8,
    },
    "FNetBackbone": {k: v for k, v in TEXT.items() if k != "num_heads"},
    "FalconBackbone": {
        **{k: v for k, v in TEXT.items() if k != "num_heads"},
        "num_attention_heads": 2,
    },
    "GPT2Backbone": TEXT,
    "GPTNeoXBackbone": {**TEXT, "rotary_percentage": 0.5},
    "Gemma3Backbone": {**DECODER, "image_size": 16, "head_dim": 4},
    "GemmaBackbone": {**DECODER, "head_dim": 4},
    "GptOssBackbone": {**DECODER, "num_experts": 2, "top_k": 1},
    "Llama3Backbone": DECODER,
    "LlamaBackbone": DECODER,
    "MiTBackbone": {
        "image_shape": (16, 16, 3),
        "layerwise_depths": [1, 1],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [2, 1],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [3, 3],
        "layerwise_strides": [2, 2],
        "hidden_dims": [8, 8],
    },
    "MistralBackbone": DECODER,
    "MixtralBackbone": {**DECODER, "num_experts": 2, "top_k": 1},
    "OPTBackbone": TEXT,
    "Phi3Backbone": DECODER,
    "QwenBackbone": DECODER,
    "Qwen3Backbone": {**DECODER, "head_dim": 4},
    "Qwen3MoeBackbone": {**EXPERTS, "top_k": 1},
    "QwenMoeBackbone": {
        **EXPERTS,
        "top_k": 1,
        "shared_expert_intermediate_dim": 8,
    },
    "ResNetBackbone": {
        **IMAGE,
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [3],
        "stackwise_num_filters": [64, 64],
        "stackwise_num_blocks": [1, 1],
        "stackwise_num_strides": [1, 2],
        "block_type": "basic_block",
    },
    "RobertaBackbone": TEXT,
    "RoformerV2Backbone": {**TEXT, "head_size": 4},
    "SwinTransformerBackbone": {
        **IMAGE,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
    },
    "T5Backbone": TEXT,
    "VGGBackbone": {
        **IMAGE,
        "stackwise_num_repeats": [1, 1],
        "stackwise_num_filters": [4, 8],
    },
    "ViTBackbone": {
        **PATCHES,
        "patch_size": (8, 8),
        "hidden_dim": 8,
        "mlp_dim": 16,
    },
    "ViTDetBackbone": {
        **IMAGE,
        "hidden_size": 8,
        "num_layers": 2,
        "intermediate_dim": 16,
        "num_heads": 2,
        "global_attention_layer_indices": [1],
        "patch_size": 8,
        "num_output_channels": 8,
        "window_size": 2,
    },
    "WhisperBackbone": {
        **TEXT,
        "num_mels": 8,
        "max_encoder_sequence_length": 12,
        "max_decoder_sequence_length": 12,
    },
    "XLMRobertaBackbone": TEXT,
    "XLNetBackbone": TEXT,
    "XceptionBackbone": {
        **IMAGE,
        "stackwise_conv_filters": [[8, 8], [8, 8]],
        "stackwise_pooling": [True, False],
    },
}


def inputs_of(model):
    generator = np.random.default_rng(0)

    def values(tensor):
        shape = [d or 8 for d in (2, *tensor.shape[1:])]
        if "mask" in tensor.name:
            return np.ones(shape, tensor.dtype)
        if "segment" in tensor.name:
            return np.zeros(shape, tensor.dtype)
        if "token" in tensor.name or "int" in tensor.dtype:
            return generator.integers(1, 40, shape).astype(tensor.dtype)
        return generator.normal(size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(values, model.input)


def outputs_of(model, x):
    found = keras.tree.flatten(model(x))
    return [keras.ops.convert_to_numpy(tensor) for tensor in found]


def check_same(model, x, expected):
    for mine, its in zip(outputs_of(model, x), expected, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-5)


def reloaded(model, folder):
    model.save(folder / "m.keras")
    return keras.saving.load_model(folder / "m.keras")


# Keras cannot load `keras.Model(backbone.inputs, backbone.outputs)` either.
NOT_LOADED = {"DebertaV3Backbone"}


@pytest.mark.filterwarnings("ignore:The sparse copy of")
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_backbone(name, tmp_path):
    keras.utils.set_random_seed(0)
    dense = getattr(models, name)(**BACKBONES[name])
    x = inputs_of(dense)
    expected = outputs_of(dense, x)
    check_same(kft.sparsify(dense, 0.0), x, expected)
    sparse = kft.sparsify(dense, 0.5)
    masked = outputs_of(sparse, x)
    check_same(kft.strip(sparse), x, masked)
    pruned = kft.prune(sparse, 0.7)
    check_same(kft.strip(pruned), x, outputs_of(pruned, x))
    if name not in NOT_LOADED:
        loaded = reloaded(sparse, tmp_path)
        check_same(loaded, x, masked)
        for mine, its in zip(
            loaded.masked_kernels, sparse.masked_kernels, strict=True
        ):
            np.testing.assert_array_equal(mine.mask.value, its.mask.value)
    check_same(dense, x, expected)


def test_a_task_is_refused_by_name():
    backbone = models.BertBackbone(**TEXT)
    task = models.BertTextClassifier(backbone=backbone, num_classes=2)
    with pytest.raises(ValueError, match=r"overrides .*BertTextClassifier"):
        kft.sparsify(task, 0.5)
    layers_alone = keras.Model(task.inputs, task.outputs)
    assert kft.sparsify(layers_alone, 0.5).masked_kernels
