"""Examples that read images into arrays take them as they are.

Augmentation is drawn anew in each epoch of a pipeline. Read into arrays, one
draw of each image would stay: images shifted or mirrored for good.
"""

import json
import pathlib
import re

import forked
import keras
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

# What each reader makes of the training images of a data set. `inva_multimodal`
# cuts them into halves and scales these.
READERS = {
    "array_data": "array_data.load('fashion_mnist', 0).train[0]",
    "distilling": "distilling.load(0).train[0]",
    "inva_multimodal": "whole(inva_multimodal)",
}
# These read test images alone, or give a pipeline to `fit`.
OTHERS = {"image_sets", "training"}

# Digits that are augmented as Fashion-MNIST is; no pipeline of Fashion-MNIST
# needs to be prepared.
CODE = """
import json, pathlib, sys
sys.path.insert(0, {examples!r})
import numpy as np
from absl import flags
import keras_freetickets as kft
import {module}

load = kft.datasets.load

def as_fashion(name, augment="auto", **settings):
    augment = "crop_flip" if augment == "auto" else augment
    return load("optdigits", augment=augment, **settings)

def whole(module):
    seen, halves = [], module.multimodal.halves
    def cut(images, *rest):
        seen.append(images)
        return halves(images, *rest)
    module.multimodal.halves = cut
    module.load()
    return seen[0]

kft.datasets.load = as_fashion
if "data_dir" not in flags.FLAGS:
    flags.DEFINE_string("data_dir", None, "")
flags.FLAGS(sys.argv)
images = np.asarray({reader})
low, high = images.min(), images.max()
found = np.rint(16 * (images - low) / (high - low)).astype(int)
print(json.dumps(found.reshape(len(found), -1).tolist()))
"""


def test_every_reader_is_known():
    found = {
        path.stem
        for path in EXAMPLES.glob("*.py")
        if re.search(r"datasets\.load\(", path.read_text())
    }
    assert found == READERS.keys() | OTHERS


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="pipelines of TensorFlow"
)
@pytest.mark.parametrize("module", sorted(READERS))
def test_images_are_read_as_they_are(tmp_path, module):
    from sklearn.datasets import load_digits

    code = CODE.format(
        examples=str(EXAMPLES), module=module, reader=READERS[module]
    )
    flags = ["--dataset=fashion_mnist", f"--data_dir={tmp_path}"]
    if module == "array_data":
        flags = flags[1:]
    done = forked.run(["-c", code, *flags], check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    images = json.loads(done.stdout.splitlines()[-1])
    digits = {tuple(one) for one in load_digits().data.astype(int).tolist()}
    assert len(images) >= 400
    assert all(tuple(one) in digits for one in images)
