"""Every part can be the first that a process imports."""

import pkgutil

import forked

import keras_freetickets as kft

# As in a process that has not imported Keras: its public module is taken away
# for each part, with all of the package.
EACH_FIRST = """
import importlib
import sys

for name in {names}:
    for known in list(sys.modules):
        if known == "keras" or known.split(".")[0] == "keras_freetickets":
            del sys.modules[known]
    part = importlib.import_module(f"keras_freetickets.{{name}}")
    import keras_freetickets

    assert getattr(keras_freetickets, name) is part
    assert callable(keras_freetickets.sparsify)
    print(name)
"""


def test_every_part_can_be_imported_first():
    names = [part.name for part in pkgutil.iter_modules(kft.__path__)]
    names.remove("__main__")
    done = forked.run(["-c", EACH_FIRST.format(names=names)], check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == names
