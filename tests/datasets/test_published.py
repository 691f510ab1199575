import pytest

from keras_freetickets import datasets
from keras_freetickets.datasets import pipelines

pytest.importorskip("tensorflow_datasets")


def test_names_are_those_of_tfds(monkeypatch):
    from tensorflow_datasets.image_classification import cifar10_corrupted

    builder = cifar10_corrupted.Cifar10Corrupted
    known = {config.name for config in builder.BUILDER_CONFIGS}
    asked = []

    def load_test(name, **kwargs):
        asked.append(name)
        return kwargs

    monkeypatch.setattr(pipelines, "load_test", load_test)
    for corruption in datasets.CORRUPTIONS:
        for severity in range(1, 6):
            datasets.load_corrupted(corruption, severity)
    assert len(set(asked)) == 15 * 5
    assert {name.removeprefix("cifar10_corrupted/") for name in asked} <= known
    assert "cifar10_corrupted/frosted_glass_blur_3" in asked
    given = datasets.load_corrupted("fog", 2, "like", batch_size=9)
    assert given["like"] == "like" and given["batch_size"] == 9


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`corruption` must be one of"):
        datasets.load_corrupted("smog", 1)
    with pytest.raises(ValueError, match="`severity` must be"):
        datasets.load_corrupted("fog", 6)
    with pytest.raises(ValueError, match="not prepared"):
        datasets.load_corrupted("fog", 1, data_dir=tmp_path)
