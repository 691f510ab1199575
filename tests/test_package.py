import ast
import doctest
import inspect
import pathlib
import re
import subprocess
import sys
import textwrap

import keras
import pytest

import keras_freetickets as kft
from keras_freetickets import models
from keras_freetickets import plots
from keras_freetickets import topology
from keras_freetickets.inspection import summary

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "keras_freetickets").rglob("*.py")
)
PLACES = [
    kft,
    kft.applications,
    kft.attacks,
    kft.callbacks,
    kft.callbacks.backup,
    kft.callbacks.ticket_checkpoint,
    kft.callbacks.drop_and_grow,
    kft.callbacks.freetickets,
    kft.callbacks.phases,
    kft.callbacks.composite,
    kft.datasets,
    kft.contrastive,
    kft.contrastive.objective,
    kft.curation,
    kft.deployment,
    kft.discrete,
    kft.discrete.storage,
    kft.distillation,
    kft.graphs,
    kft.ensembles,
    kft.recipes,
    kft.recipes.recipe,
    kft.recipes.workspace,
    kft.resolution,
    kft.serving,
    kft.layers,
    kft.layers.update_state,
    kft.metrics,
    kft.metrics.flops,
    models,
    kft.multimodal,
    plots,
    summary,
    kft.losses,
    kft.sampling,
    kft.sampling.diagnostics,
    kft.sampling.energies,
    kft.sampling.proposals,
    kft.calibration,
    kft.spiking,
    topology,
    topology.criteria,
    topology.distributions,
    topology.schedules,
]


def public():
    """Each public class and function once, by its full name."""
    found = {}
    for place in PLACES:
        listed = getattr(place, "__all__", None)
        for name in listed or vars(place):
            value = getattr(place, name)
            if name.startswith("_") or not callable(value):
                continue
            own = getattr(value, "__module__", "") == place.__name__
            if listed is not None or own:
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


PUBLIC = public()
every_public = pytest.mark.parametrize("name", sorted(PUBLIC))


def sections(value):
    """Name -> text of the sections of a docstring, e.g. "Args"."""
    return sections_of(inspect.getdoc(value) or "")


def sections_of(text):
    parts = re.split(r"^([A-Z][\w ]*):$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def described_arguments(value):
    """Pairs of names and text of the entries of "Args" in a docstring.

    One entry may be of several: `a, b: As for `Other`.`
    """
    names = r"\*{0,2}\w+(?:, \*{0,2}\w+)*"
    entry = rf"^    ({names}):\s+(\S.*(?:\n+     .*)*)"
    text = value if isinstance(value, str) else sections(value).get("Args", "")
    return [
        (listed.split(", "), " ".join(description.split()))
        for listed, description in re.findall(entry, text, flags=re.M)
    ]


def described_names(value):
    return [one for names, _ in described_arguments(value) for one in names]


def parameters(value):
    """Names of the arguments, with their stars."""
    if inspect.isclass(value) and value.__init__ is object.__init__:
        return []
    stars = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    function = value.__init__ if inspect.isclass(value) else value
    given = inspect.signature(function).parameters.values()
    return [
        stars.get(one.kind, "") + one.name
        for one in given
        if one.name != "self"
    ]


def raises(function, seen=None):
    """Names of the exceptions that a function raises by itself.

    Or by functions of its own module that it calls.
    """
    seen = set() if seen is None else seen
    seen.add(function)
    module = sys.modules[function.__module__]
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            kind = getattr(node.exc, "func", node.exc)
            found.add(getattr(kind, "id", None))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = getattr(module, node.func.id, None)
            known = inspect.isfunction(called) and called not in seen
            if known and called.__module__ == module.__name__:
                found |= raises(called, seen)
    return found - {None, "NotImplementedError"}


def _named(arguments):
    return [one for one in arguments if not one.startswith("*")]


@every_public
def test_documented(name):
    lines = inspect.getdoc(PUBLIC[name]).splitlines()
    assert len(lines) > 2 and lines[0].endswith((".", ":")) and not lines[1]


@every_public
def test_arguments_are_documented(name):
    described, given = described_names(PUBLIC[name]), parameters(PUBLIC[name])
    assert sorted(described) == sorted(given)
    # In their order, but that `*args, **kwargs: ...` may be one entry.
    assert _named(described) == _named(given)


@every_public
def test_arguments_described_elsewhere_are_there(name):
    """Of `a, b: As for `Other`.`, `Other` describes `a` and `b`."""
    for names, text in described_arguments(PUBLIC[name]):
        other = re.match(r"As (?:for|in) `([\w.]+)`", text)
        if len(names) == 1 or other is None:
            continue
        last = other.group(1).split(".")[-1]
        found = [v for k, v in PUBLIC.items() if k.split(".")[-1] == last]
        assert any(set(names) <= set(described_names(v)) for v in found), text


@every_public
def test_exceptions_are_documented(name):
    value = PUBLIC[name]
    function = value
    if inspect.isclass(value):
        function = value.__dict__.get("__init__")
    written = inspect.isfunction(function)
    if not written or function.__code__.co_filename == "<string>":
        return  # no `__init__`, or that of a dataclass
    described = sections(value).get("Raises", "")
    missing = {kind for kind in raises(function) if kind not in described}
    assert not missing


@every_public
def test_examples_are_python(name):
    given = sections(PUBLIC[name])
    example = given.get("Example") or given.get("Examples")
    assert example, "no example"
    blocks = re.findall(r"```python\n(.*?)```", example, flags=re.S)
    blocks += [e.source for e in doctest.DocTestParser().get_examples(example)]
    assert blocks
    for block in blocks:
        ast.parse(block)


def prompts():
    """The public names whose example shows a prompt and what it prints."""
    return [name for name in sorted(PUBLIC) if ">>>" in PUBLIC[name].__doc__]


@pytest.mark.parametrize("name", prompts())
def test_examples_print_what_they_show(name):
    value = PUBLIC[name]
    scope = vars(sys.modules[value.__module__])
    # Names of layers begin anew; collecting garbage would take a second.
    keras.backend.clear_session(free_memory=False)
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(value, name, globs=dict(scope))
    results = doctest.DocTestRunner().run(test)
    assert results.attempted and not results.failed


def own_methods():
    """Public methods that no class outside this package asks for."""
    for name, kind in PUBLIC.items():
        if not inspect.isclass(kind):
            continue
        foreign = [
            base
            for base in kind.__mro__
            if not base.__module__.startswith("keras_freetickets")
        ]
        for method, value in vars(kind).items():
            value = getattr(value, "__func__", value)
            asked = any(hasattr(base, method) for base in foreign)
            private = method.startswith("_")
            if inspect.isfunction(value) and not asked and not private:
                yield f"{name}.{method}", value


# Keras' way of saving objects: every class has them.
CONFIG = ("get_config", "from_config")


@pytest.mark.parametrize("name, value", sorted(own_methods()))
def test_methods_are_documented(name, value):
    if name.endswith(CONFIG):
        return
    assert inspect.getdoc(value), "no docstring"  # or that of a class above
    if "Args" in sections(value):
        given = [one for one in parameters(value) if one != "cls"]
        assert described_names(value) == given


@pytest.mark.parametrize(
    "value",
    [
        kft.EnsembleModel,
        kft.SparseModel,
        kft.layers.Sparse,
        kft.metrics.ExpectedCalibrationError,
        topology.Method,
        topology.RigL,
        topology.SET,
    ],
)
def test_registered(value):
    name = keras.saving.get_registered_name(value)
    assert name == f"keras_freetickets>{value.__name__}"


EXTRAS = [
    "absl.flags",
    "ai_edge_litert",
    "llvmlite",
    "matplotlib",
    "nncf",
    "numba",
    "onnx",
    "onnxruntime",
    "openvino",
    "sklearn",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
    "tf2onnx",
    "tf_keras",
]


def test_extras_are_not_imported():
    """Nothing of the extras but what Keras itself brings along."""
    code = (
        f"import sys, keras; extras = {EXTRAS}; "
        "before = {n for n in extras if n in sys.modules}; "
        "import keras_freetickets; "
        "after = {n for n in extras if n in sys.modules}; "
        "assert after == before, after - before; "
        "assert 'tensorflow_datasets' not in after"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def functions(body, of_class=False):
    """Public functions and methods of public classes, `__init__` too."""
    for node in body:
        private = node.name.startswith("_") if hasattr(node, "name") else True
        if isinstance(node, ast.ClassDef) and not private:
            yield from functions(node.body, of_class=True)
        shown = not private or getattr(node, "name", "") == "__init__"
        if isinstance(node, ast.FunctionDef) and shown:
            yield node, of_class


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_described_arguments_are_those_of_the_function(path):
    """Of every function that describes some: ruff's D417 knows no `a, b:`."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        text = ast.get_docstring(node) or ""
        described = sections_of(text).get("Args")
        if described is not None:
            of = node.args
            given = [*of.posonlyargs, *of.args, *of.kwonlyargs]
            names = {one.arg for one in given} - {"self", "cls"}
            listed = {n for n in described_names(described) if n[0] != "*"}
            assert listed == names, f"{node.name}:{node.lineno}"


def without_types(node, of_class):
    """Names of the arguments of a function, or "return", without a type."""
    of = node.args
    arguments = [*of.posonlyargs, *of.args, *of.kwonlyargs]
    if of_class and arguments and arguments[0].arg in ("self", "cls"):
        arguments = arguments[1:]
    arguments += [one for one in (of.vararg, of.kwarg) if one is not None]
    names = [one.arg for one in arguments if one.annotation is None]
    return names + ["return"] * (node.returns is None)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_public_functions_have_types(path):
    body = ast.parse((ROOT / path).read_text()).body
    found = {
        f"{node.name}:{node.lineno}": names
        for node, of_class in functions(body)
        if (names := without_types(node, of_class))
    }
    assert not found
