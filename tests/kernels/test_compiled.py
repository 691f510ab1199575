import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from keras_freetickets.kernels import compiled
from keras_freetickets.kernels import vectors


def test_the_cache_lies_in_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.cache_folder().parent == tmp_path / "keras_freetickets"
    kernel = compiled.compiled(_twice)
    assert kernel(2) == 4
    files = list(tmp_path.glob("keras_freetickets/**/*.nbi"))
    assert len(files) == 1
    beside = pathlib.Path(__file__).parent / "__pycache__"
    assert not list(beside.glob("*_twice*.nbi"))


def test_where_nothing_can_be_written_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiled.compiled(_twice)(3) == 6


def test_numbas_own_setting_comes_first(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", str(tmp_path))
    assert compiled.cache_folder().is_relative_to(tmp_path)


def test_threads_that_look_for_the_folder_take_turns(monkeypatch, tmp_path):
    """Numba's setting is that of the process."""
    config = compiled.numba.config
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    entered, seen = threading.Event(), []

    def first():
        entered.set()
        time.sleep(0.05)  # the other one waits meanwhile
        seen.append(config.CACHE_DIR)

    one = threading.Thread(target=compiled._keep, args=[first])
    one.start()
    entered.wait()
    compiled._keep(lambda: seen.append(config.CACHE_DIR))
    one.join()
    assert str(tmp_path) == config.CACHE_DIR
    assert seen == [str(compiled.cache_folder())] * 2


MADE = """
from keras_freetickets.kernels.compiled import compiled

def times(factor):
    def multiplied(x):
        total = 0.0
        for i in range(3):  # too long to be merged with its caller
            total += x * factor + i ** factor
        return total
    return compiled(multiplied)

def twice(x):
    return x + x
"""
# The number that numba gives to a function is 2 in both, of another factor.
FIRST = "compiled(twice)(1.0); assert times(2)(10.0) == 65.0"
SECOND = """
two, three = times(2), times(3)

def both(x):
    return two(x), three(x)

assert compiled(both)(10.0) == (65.0, 99.0)
assert two.stats.cache_hits and not three.stats.cache_hits
"""


def test_functions_of_one_factory_are_told_apart(tmp_path):
    """One from the cache and one compiled here, called by a third."""
    (tmp_path / "made.py").write_text(MADE)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    for program in (FIRST, SECOND):
        subprocess.run(
            [sys.executable, "-c", "from made import *\n" + program],
            env={
                **os.environ,
                "NUMBA_CACHE_DIR": str(tmp_path),
                "PYTHONPATH": path,
            },
            check=True,
        )


def test_training_fixes_each_rounding():
    """No sum may be reordered: copies of a kernel could then differ."""

    @compiled.numba.njit
    def backward(values, x, y):
        loaded = vectors.load(x, 0, 64)
        total = vectors.multiply_add(values[0], loaded, loaded)
        total = vectors.add(total, vectors.load(y, 0, 64))
        return vectors.dot(total, loaded)

    x = np.arange(64, dtype="float32")
    assert backward(x[2:], x, x) == 4 * np.sum(x * x)
    (code,) = backward.inspect_llvm().values()
    assert "fadd <" in code and "fmuladd" in code
    for freedom in ("reassoc", "contract", "fast"):
        assert f" {freedom} " not in code


@pytest.mark.parametrize(
    ("batch", "wide", "narrow"),
    [
        (1, 16, 16),
        (31, 32, 32),
        (33, 16, 16),
        (64, 64, 32),
        (120, 128, 32),
        (256, 128, 32),
    ],
)
def test_lanes(monkeypatch, batch, wide, narrow):
    for largest, lanes in ((128, wide), (32, narrow)):
        monkeypatch.setattr(compiled, "largest_tile", lambda n=largest: n)
        assert compiled.lanes_for(batch) == lanes


def _twice(x):
    return x + x
