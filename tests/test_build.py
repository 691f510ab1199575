"""BUILD against the imports of the modules and the files that are there."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "keras_freetickets"
ADAPTER = f"{PACKAGE}/keras_adapter/"
# recipes -> ... -> topology; the rest stands below or aside.
ABOVE = [
    "recipes",
    "callbacks",
    "inspection",
    "models",
    "trainers",
    "ensembles",
    "layers",
    "topology",
]
ASIDE = ["applications", "datasets", "metrics"]


def targets():
    """Name -> kind, sources and deps of each target: BUILD, run as Python."""
    found = {}

    def rule(kind):
        def declare(name, **attributes):
            assert name not in found, name
            found[name] = {"kind": kind, "deps": [], **attributes}

        return declare

    def glob(patterns):
        paths = [path for one in patterns for path in ROOT.glob(one)]
        return sorted(str(path.relative_to(ROOT)) for path in paths)

    scope = {kind: rule(kind) for kind in ("py_library", "py_test")}
    scope.update(glob=glob, package=dict, licenses=list)
    exec((ROOT / "BUILD").read_text(), scope)
    return found


TARGETS = targets()
SOURCES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("*.py")
)
OWNERS = {
    source: name
    for name, target in TARGETS.items()
    if target["kind"] == "py_library"
    for source in target["srcs"]
}


def imports(source, everywhere=True):
    """Dotted names that a file imports, `from a import b` as "a.b"."""
    tree = ast.parse((ROOT / source).read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def owner_of(name):
    """The target whose file defines `keras_freetickets.a.b`."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[:end])
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if file in OWNERS:
                return OWNERS[file]
    raise AssertionError(f"BUILD has no target for {name}")


def imported_targets(name):
    """The other targets that a target's own files import."""
    files = [source for source in TARGETS[name]["srcs"] if source in OWNERS]
    ours = [
        one
        for source in files
        for one in imports(source)
        if one.split(".")[0] == PACKAGE
    ]
    return {owner_of(one) for one in ours} - {name}


def declared(name):
    return {dep.removeprefix(":") for dep in TARGETS[name]["deps"]}


def reachable(name):
    """All that a target depends on; itself too, if that goes in a circle."""
    found, waiting = set(), declared(name)
    while waiting:
        one = waiting.pop()
        found.add(one)
        waiting |= declared(one) - found
    return found


def test_every_module_has_one_target():
    libraries = [t for t in TARGETS.values() if t["kind"] == "py_library"]
    owned = [source for target in libraries for source in target["srcs"]]
    assert len(owned) == len(set(owned))
    assert set(SOURCES) <= set(owned)


@pytest.mark.parametrize("name", sorted(set(OWNERS.values())))
def test_deps_are_what_is_imported(name):
    expected = imported_targets(name)
    if name == PACKAGE:  # whoever depends on it gets every part
        expected = {OWNERS[source] for source in SOURCES} - {name}
    elif name in ("examples", "benchmarks"):
        expected = {PACKAGE}
    elif name == "test_helpers":
        expected = set()
    assert declared(name) == expected


def test_imports_point_one_way():
    for i, part in enumerate(ABOVE):
        assert not reachable(part) & set(ABOVE[:i]), part
    for part in ASIDE:
        assert not reachable(part) & {*ABOVE, *ASIDE}, part
    for name in TARGETS:
        assert name not in reachable(name)
    topology = {"accelerators", "arguments", "signatures", "types"}
    assert reachable("topology") == topology
    assert reachable("keras_adapter") == {"types"}


def test_topology_imports_only_keras_and_numpy():
    standard = sys.stdlib_module_names
    for source in TARGETS["topology"]["srcs"]:
        roots = {name.split(".")[0] for name in imports(source, False)}
        assert roots - standard <= {"keras", "numpy", PACKAGE}, source


def test_tensorflow_is_imported_where_a_file_is_about_it():
    at_the_top = {
        source
        for source in SOURCES
        if "tensorflow"
        in {name.split(".")[0] for name in imports(source, everywhere=False)}
    }
    assert at_the_top == {
        f"{PACKAGE}/trainers/tensorflow.py",
    }


def test_private_parts_of_keras_are_in_one_package():
    for source in SOURCES:
        private = [n for n in imports(source) if n.startswith("keras.src")]
        assert not private or source.startswith(ADAPTER), private


def attributes(source):
    """Pairs of an attribute and whether it is one of `self`, set there."""
    tree = ast.parse((ROOT / source).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            own = getattr(node.value, "id", None) == "self"
            yield node.attr, own and isinstance(node.ctx, ast.Store)


def defined(source):
    """Names of the functions and classes in a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse((ROOT / source).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_private_attributes_are_our_own():
    ours = set().union(*(defined(source) for source in SOURCES))
    for source in SOURCES:
        ours |= {name for name, is_set in attributes(source) if is_set}
    for source in SOURCES:
        names = {name for name, _ in attributes(source)}
        private = {n for n in names if n[0] == "_" and not n.endswith("__")}
        foreign = private - ours
        assert not foreign or source.startswith(ADAPTER), source


def test_every_test_file_has_a_target():
    files = {str(p.relative_to(ROOT)) for p in ROOT.glob("tests/**/test_*.py")}
    tests = [t for t in TARGETS.values() if t["kind"] == "py_test"]
    run = {source for target in tests for source in target["srcs"]}
    assert run - {"tests/helpers/run_pytest.py"} == files
    # A file named otherwise is a helper, or pytest would pass it by.
    others = {str(p.relative_to(ROOT)) for p in ROOT.glob("tests/**/*.py")}
    assert others - files <= set(TARGETS["test_helpers"]["srcs"])


def test_clean_leaves_runs_alone():
    """Tickets and results of a user lie in `runs/`."""
    # Not as a part of the `make` that may have started the tests.
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    done = subprocess.run(
        ["make", "--dry-run", "clean"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in outer},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.split()
    assert words[:2] == ["rm", "-rf"]
    assert {".venv", "build"} <= set(words)
    assert not [word for word in words if word.startswith("runs")]
