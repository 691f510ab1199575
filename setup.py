"""Installs keras_freetickets."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"',
    (ROOT / "keras_freetickets" / "version.py").read_text(),
).group(1)

EXAMPLES = [
    "absl-py",
    "tensorflow-datasets>=4.9.10",
    "scikit-learn",
    "importlib_resources",
]
PLOTS = ["matplotlib"]
TFMOT = ["tensorflow-model-optimization>=0.8.1", "tf_keras>=2.21,<2.22"]
JAX = ["jax>=0.10.2,<0.11"]
TENSORFLOW = ["tensorflow>=2.21,<2.22"]
EXTRAS = {
    "examples": EXAMPLES,
    "plots": PLOTS,
    "tfmot": TFMOT,
    "jax": JAX,
    "tensorflow": TENSORFLOW,
    "test": [
        *EXAMPLES,
        *PLOTS,
        *JAX,
        *TFMOT,
        "hypothesis",
        "ipython",
        "pytest",
        "pytest-xdist",
        "ruff",
        "tensorboard",
    ],
}

setuptools.setup(
    name="keras_freetickets",
    version=VERSION,
    description=(
        "Sparse training and cheap, calibrated ensembles (FreeTickets) in "
        "Keras 3"
    ),
    author="The keras_freetickets authors",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["keras_freetickets*"]),
    python_requires=">=3.11",
    install_requires=[
        "keras>=3.15,<3.16",
        *TENSORFLOW,
        "numpy",
        "h5py",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
