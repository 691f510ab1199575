"""What pyproject.toml cannot say: metadata that depend on a published address.

All else stands there, and pip reads both.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent

# Where the repository is published; `None` while it is nowhere.
PROJECT_URL = None
_LINK = re.compile(r"(!?)\[([^]]+)\]\((?!https?://|#)([^)]+)\)")


def long_description(readme, project_url):
    """README for a page that does not lie beside the files it links to.

    Args:
        readme: Text of README.md.
        project_url: Address of the repository, or `None`: links to its files
            become their names then.
    """

    def replace(link):
        mark, text, path = link.groups()
        if project_url is None:
            return f"{text} ({path})"
        kind = "raw" if mark else "blob"  # a picture, or a page
        return f"{mark}[{text}]({project_url}/{kind}/main/{path})"

    return _LINK.sub(replace, readme)


def project_urls(project_url):
    """The addresses in the metadata."""
    urls = {"Paper": "https://arxiv.org/abs/2106.14568"}
    if project_url is not None:
        urls["Source"] = project_url
        urls["Documentation"] = f"{project_url}/tree/main/docs"
        urls["Changelog"] = f"{project_url}/blob/main/CHANGELOG.md"
    return urls


setuptools.setup(
    long_description=long_description(
        (ROOT / "README.md").read_text(), PROJECT_URL
    ),
    long_description_content_type="text/markdown",
    project_urls=project_urls(PROJECT_URL),
)
