"""Installs keras_freetickets."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"',
    (ROOT / "keras_freetickets" / "version.py").read_text(),
).group(1)

# Where the repository is published; `None` while it is nowhere.
PROJECT_URL = None
_LINK = re.compile(r"\[([^]]+)\]\((?!https?://)([^)]+)\)")


def long_description(readme, project_url):
    """README for a page that does not lie beside the files it links to.

    Args:
        readme: Text of README.md.
        project_url: Address of the repository, or `None`: links to its files
            become their names then.
    """
    if project_url is None:
        return _LINK.sub(r"\1 (\2)", readme)
    return _LINK.sub(rf"[\1]({project_url}/blob/main/\2)", readme)


def project_urls(project_url):
    """The addresses in the metadata."""
    urls = {"Paper": "https://arxiv.org/abs/2106.14568"}
    if project_url is not None:
        urls["Source"] = project_url
        urls["Documentation"] = f"{project_url}/tree/main/docs"
        urls["Changelog"] = f"{project_url}/blob/main/CHANGELOG.md"
    return urls


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
        "keras-hub>=0.32,<0.33",
        "orbax-checkpoint>=0.12",
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
    long_description=long_description(
        (ROOT / "README.md").read_text(), PROJECT_URL
    ),
    long_description_content_type="text/markdown",
    project_urls=project_urls(PROJECT_URL),
    keywords=[
        "keras",
        "sparse training",
        "pruning",
        "RigL",
        "SET",
        "FreeTickets",
        "ensembles",
        "calibration",
        "uncertainty",
    ],
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
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
