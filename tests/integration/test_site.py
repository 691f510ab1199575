"""The documentation's site: what its reference holds, and where links lead.

`make docs` builds it, and fails on links and names that lead nowhere.
"""

import importlib.util
import inspect
import pathlib
import re

import pytest

import keras_freetickets as kft

pytest.importorskip("griffe")
pytest.importorskip("mkdocs")
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks():
    path = ROOT / "docs" / "_gen" / "hooks.py"
    spec = importlib.util.spec_from_file_location("hooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public(module, path):
    """Full names of a module, and of what can be reached by its names."""
    yield path
    for name in getattr(module, "__all__", vars(module)):
        value = getattr(module, name)
        if name.startswith("_"):
            continue
        if hasattr(module, "__all__") and inspect.ismodule(value):
            yield from public(value, f"{path}.{name}")
        elif hasattr(module, "__all__") or (
            getattr(value, "__module__", None) == module.__name__
            and callable(value)
        ):
            yield f"{path}.{name}"


def test_the_reference_holds_every_public_name(hooks):
    modules = hooks.public_modules()
    assert hooks.public_names(modules) == set(public(kft, "keras_freetickets"))
    for module in modules:
        page = hooks.reference_page(module, modules)
        for entry in module.entries:
            assert f"::: {entry.source}\n" in page
            assert entry.summary or entry.path.rpartition(".")[2].isupper()


@pytest.mark.parametrize(
    "text, published, moved",
    [
        ("[a](b.md#c)", None, "[a](b.md#c)"),
        ("[a](../CHANGELOG.md#c)", None, "[a](changelog.md#c)"),
        ("[a](../setup.py)", None, "a (`setup.py`)"),
        ("[`setup.py`](../setup.py)", None, "`setup.py`"),
        (
            "[a](../setup.py)",
            "https://example.org/x",
            "[a](https://example.org/x/blob/main/setup.py)",
        ),
    ],
)
def test_links_out_of_docs(hooks, text, published, moved):
    assert hooks.moved_links(text, published) == moved


def test_a_link_to_no_file_is_refused(hooks):
    with pytest.raises(Exception, match="A link leads to no file"):
        hooks.moved_links("[a](../no_such_file.py)", None)


def test_pages_of_the_root_link_from_docs(hooks):
    text = "[a](docs/b.md#c) [d](setup.py) [e](https://example.org) [f](#g)"
    assert hooks.from_root(text) == (
        "[a](b.md#c) [d](../setup.py) [e](https://example.org) [f](#g)"
    )


def test_public_names_are_linked_in_text_alone(hooks):
    names = {"keras_freetickets.sparsify"}
    text = "`kft.sparsify(x)`, `kft.other`\n\n```python\n# `kft.strip`\n```\n"
    old = hooks.linked_names(text, names, all_exist=False)
    assert old == text.replace(
        "`kft.sparsify(x)`", "[`kft.sparsify(x)`][keras_freetickets.sparsify]"
    )
    # The build fails on what has no entry.
    assert hooks.linked_names(text, names) == old.replace(
        "`kft.other`", "[`kft.other`][keras_freetickets.other]"
    )


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")],
    ids=lambda page: page.name,
)
def test_links_lead_to_files_on_a_forge(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)\s#]+)", text):
        assert (page.parent / target).exists(), target
