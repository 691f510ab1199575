"""Checks an installed package: `make check-dist` runs it, `python -I`.

Of an environment that holds the wheel and JAX, and no TensorFlow. The code is
the README's "A first run", as the wheel's own metadata carry it.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import pathlib
import re
import sys
import tempfile

os.environ["KERAS_BACKEND"] = "jax"


def first_run(readme):
    """The block of Python below the heading."""
    section = readme.partition("## A first run")[2]
    return re.search(r"```python\n(.*?)```", section, re.S).group(1)


def check_advice(datasets):
    """What needs TensorFlow says which extra brings it."""
    try:
        datasets.load("optdigits")
    except ImportError as error:
        assert "pip install 'keras_freetickets[examples]'" in str(error)
    else:
        raise AssertionError("datasets.load did not ask for TensorFlow")


def main():
    assert importlib.util.find_spec("tensorflow") is None
    import keras_freetickets as kft

    folder = pathlib.Path(kft.__file__).parent
    assert folder.is_relative_to(sys.prefix), folder
    assert (folder / "py.typed").exists()
    metadata = importlib.metadata.metadata("keras_freetickets")
    assert metadata["Version"] == kft.__version__
    check_advice(kft.datasets)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        names = {}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(first_run(metadata.get_payload()), names)
        assert names["ensemble"].num_members == 3
    print(f"keras_freetickets {kft.__version__}: installed, and trains on JAX")


if __name__ == "__main__":
    main()
