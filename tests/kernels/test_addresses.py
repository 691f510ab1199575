"""Code that one process compiled finds the next one's addresses."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba")

import forked

from keras_freetickets.kernels import addresses
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer

_kept = np.array([3, 5], np.int64)
addresses.name_address("a_test_of_addresses", _kept.ctypes.data)


@compiled
def _read(i):
    at = addresses.address_of("a_test_of_addresses")
    return numba.carray(pointer(at), 2, numba.int64)[i]


def test_a_name_stands_for_an_address():
    assert [_read(0), _read(1)] == [3, 5]
    _kept[1] = 7
    assert _read(1) == 7


def test_two_uses_of_a_name_are_one_place():
    @compiled
    def difference():
        one = addresses.address_of("a_test_of_addresses")
        return addresses.address_of("a_test_of_addresses") - one

    assert difference() == 0


def test_a_name_must_be_a_literal():
    @compiled
    def place(name):
        return addresses.address_of(name)

    with pytest.raises(numba.TypingError, match="address_of"):
        place("a_test_" + "of_addresses")


MADE = """
import ctypes
import sys

import numpy as np

from keras_freetickets.kernels import addresses
from keras_freetickets.kernels import compiled
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer

memory = np.array([int(sys.argv[1])], np.int64)
addresses.name_address("where_it_is", memory.ctypes.data)


def read():
    at = addresses.address_of("where_it_is")
    return numba.carray(pointer(at), 1, numba.int64)[0]


found = compiled.callback(read, numba.int64())
print(ctypes.CFUNCTYPE(ctypes.c_int64)(found.address)(), found.cache_hits)
"""


def test_the_next_process_has_another_address(tmp_path):
    (tmp_path / "made.py").write_text(MADE)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    said = [
        subprocess.run(
            [sys.executable, tmp_path / "made.py", number],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for number in ("4", "9")
    ]
    assert said == [["4", "0"], ["9", "1"]]


BRIDGES = {
    "tensorflow_kernels": [
        "forward",
        "backward",
        "convolution_forward",
        "convolution_backward",
        "drop_and_grow",
    ],
    "jax_targets": [
        "forward",
        "forward, True",
        "backward",
        "backward, True",
        "convolution_forward",
        "convolution_forward, True",
        "convolution_backward",
        "drop_and_grow",
    ],
}


@pytest.mark.parametrize("bridge", BRIDGES)
def test_no_process_compiles_what_one_has_compiled(bridge):
    """What TensorFlow and XLA call: a start of a run waits for each."""
    if bridge == "tensorflow_kernels":
        pytest.importorskip("tensorflow")
    code = f"from keras_freetickets.kernels import {bridge} as made\n"
    for one in BRIDGES[bridge]:
        name, *relu = one.split(", ")
        arguments = ", ".join(["'uint16'", *relu])
        code += f"print(made.{name}({arguments}).cache_hits)\n"
    forked.run(["-c", code], check=True)
    said = forked.run(["-c", code], check=True).stdout
    assert said.split() == ["1"] * len(BRIDGES[bridge])
