"""Hooks of mkdocs.yml: the API reference, and pages from the root's files.

The reference is made from `__all__` of the package and of its modules, read
and not imported: the site is built where neither Keras nor a backend is.
"""

import dataclasses
import pathlib
import posixpath
import re

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = "keras_freetickets"
# The name that docs import the package by.
SHORT = "kft"
# Files of the root that are pages too -> their names in the site.
FROM_ROOT = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"(!?)\[([^]]+)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```)", re.M | re.S)
# A name, with or without a call: `kft.strip(model)`.
_NAME = re.compile(
    rf"(?<![\[`])`((?:{SHORT}|{PACKAGE})(?:\.\w+)+)((?:\([^`]*\))?)`(?!`)"
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A class, a function or a value of the public interface.

    Attributes:
        path: Dotted name by which users reach it.
        source: Dotted name by which griffe finds it.
        summary: First line of its docstring.
    """

    path: str
    source: str
    summary: str


@dataclasses.dataclass(frozen=True)
class Module:
    """A module of the public interface.

    Attributes:
        path: Dotted name by which users reach it.
        summary: First line of its docstring.
        entries: What it holds, modules left out.
    """

    path: str
    summary: str
    entries: list

    @property
    def page(self):
        """Its page, relative to `docs/`."""
        rest = self.path.removeprefix(PACKAGE).strip(".")
        return f"api/{rest or 'index'}.md"

    @property
    def title(self):
        return self.path.replace(PACKAGE, SHORT, 1)


def _first_line(found):
    docstring = found.docstring
    return docstring.value.splitlines()[0] if docstring else ""


def _exports(module):
    """The names in `__all__`; without one, what is defined in the file."""
    if module.exports is not None:
        return [str(name) for name in module.exports]
    return [
        name
        for name, one in module.members.items()
        if not name.startswith("_")
        and not one.is_alias
        and (one.is_function or one.is_class)
    ]


def _modules(module, path):
    entries, below = [], []
    for name in sorted(_exports(module), key=str.lower):
        if name.startswith("__"):  # the version
            continue
        source, found = f"{path}.{name}", module.members[name]
        if found.is_module and module.imports.get(name, "").endswith(
            f".{name}.{name}"
        ):
            # A function that hides the file of its name.
            source, found = module.imports[name], found.members[name]
        found = found.final_target if found.is_alias else found
        if found.is_module:
            below += _modules(found, source)
        else:
            entries.append(Entry(f"{path}.{name}", source, _first_line(found)))
    return [Module(path, _first_line(module), entries), *below]


def public_modules():
    """The modules that `keras_freetickets.__all__` leads to, itself first."""
    loaded = griffe.load(PACKAGE, search_paths=[ROOT], resolve_aliases=True)
    return _modules(loaded, PACKAGE)


def public_names(modules):
    """Full names, as users write them, of the modules and all they hold."""
    entries = [entry.path for one in modules for entry in one.entries]
    return {*entries, *(one.path for one in modules)}


def reference_page(module, modules):
    """Markdown of a module's page."""
    lines = [f"# {module.title} {{#{module.path}}}", "", module.summary, ""]
    if module.entries:
        lines += ["| Name | What it is |", "|---|---|"]
        for one in module.entries:
            name = one.path.rpartition(".")[2]
            lines.append(f"| [`{name}`][{one.path}] | {one.summary} |")
        lines.append("")
    below = [
        one for one in modules if one.path.rpartition(".")[0] == module.path
    ]
    if below:
        lines += ["| Module | What it holds |", "|---|---|"]
        for one in below:
            page = posixpath.basename(one.page)
            lines.append(f"| [`{one.title}`]({page}) | {one.summary} |")
        lines.append("")
    for one in module.entries:
        if one.source != one.path:
            lines += [f"[](){{#{one.path}}}", ""]
        lines += [f"::: {one.source}", ""]
    return "\n".join(lines)


def moved_links(text, repo_url):
    """Links of a page of the repository, as they have to be in the site.

    Files that are pages too are linked to as pages, others at the published
    address; while there is none, such a link becomes its text and the path.

    Args:
        text: Markdown, with links relative to `docs/`.
        repo_url: Address of the repository, or `None`.
    """

    def replace(link):
        mark, label, target = link.groups()
        path, _, anchor = target.partition("#")
        if not path.startswith("../"):
            return link.group()
        path = path.removeprefix("../")
        if path in FROM_ROOT:
            hash_and_anchor = f"#{anchor}" if anchor else ""
            return f"[{label}]({FROM_ROOT[path]}{hash_and_anchor})"
        if not (ROOT / path).exists():
            raise PluginError(f"A link leads to no file: {target}")
        if repo_url:
            return f"{mark}[{label}]({repo_url}/blob/main/{path})"
        return label if label.strip("`") == path else f"{label} (`{path}`)"

    return _LINK.sub(replace, text)


def from_root(text):
    """Text of a file of the root, with links relative to `docs/`."""

    def replace(link):
        mark, label, target = link.groups()
        if re.match(r"https?://|#|mailto:", target):
            return link.group()
        inside = target.startswith("docs/")
        moved = target.removeprefix("docs/") if inside else f"../{target}"
        return f"{mark}[{label}]({moved})"

    return _LINK.sub(replace, text)


def linked_names(text, names, all_exist=True):
    """Links public names, as `kft.sparsify`, to their entries.

    Args:
        text: Markdown of a page.
        names: Full names of what has an entry, and of the modules.
        all_exist: Whether to link each name that begins with `kft.`, methods
            too. One that has no entry then fails the build: the page is out
            of date.
    """

    def replace(found):
        path, call = found.groups()
        short = path.startswith(f"{SHORT}.")
        full = path.replace(f"{SHORT}.", f"{PACKAGE}.", 1) if short else path
        if full in names or (short and all_exist):
            return f"[`{path}{call}`][{full}]"
        return found.group()

    parts = _FENCE.split(text)
    parts[::2] = [_NAME.sub(replace, part) for part in parts[::2]]
    return "".join(parts)


class _Site:
    """What the hooks of one build share."""

    modules = []


def on_config(config):
    """Lists the pages of the reference below "API reference"."""
    _Site.modules = public_modules()
    pages = [{one.title: one.page} for one in _Site.modules]
    for entry in config.nav:
        if "API reference" in entry:
            entry["API reference"] = pages
    return config


def on_files(files, config):
    """Adds the pages that lie in no file of `docs/`."""
    made = {
        one.page: reference_page(one, _Site.modules) for one in _Site.modules
    }
    for source, page in FROM_ROOT.items():
        made[page] = from_root((ROOT / source).read_text())
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    path = page.file.src_uri
    if path.startswith("api/"):
        return markdown
    text = moved_links(markdown, config.repo_url)
    # Old names stand in the changelog.
    all_exist = path != FROM_ROOT["CHANGELOG.md"]
    return linked_names(text, public_names(_Site.modules), all_exist)
