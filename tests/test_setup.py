"""What a source distribution holds, and what its metadata say."""

import email
import pathlib
import runpy
import shutil
import subprocess
import sys
import tarfile

import pytest

import keras_freetickets as kft

setuptools = pytest.importorskip("setuptools", "77")
ROOT = pathlib.Path(__file__).parents[1]


def git(*arguments):
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Path within the source distribution -> its bytes."""
    folder = tmp_path_factory.mktemp("sdist")
    done = subprocess.run(
        [
            sys.executable,
            "setup.py",
            "-q",
            "egg_info",
            "--egg-base",
            folder,
            "sdist",
            "--dist-dir",
            folder,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = folder.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = [member for member in archive if member.isfile()]
        return {
            member.name.split("/", 1)[1]: archive.extractfile(member).read()
            for member in files
        }


@pytest.mark.skipif(
    shutil.which("git") is None
    or git("rev-parse", "--show-toplevel").stdout.strip() != str(ROOT),
    reason="not in a repository",
)
def test_the_sdist_holds_what_git_tracks(sdist):
    held = {name for name in sdist if ".egg-info/" not in name}
    tracked = set(git("ls-files").stdout.split())
    assert not tracked - held
    known = git("ls-files", "--others", "--exclude-standard").stdout.split()
    assert not held - tracked - set(known) - {"PKG-INFO", "setup.cfg"}


def test_links_in_the_description(monkeypatch):
    monkeypatch.setattr(setuptools, "setup", lambda **named: None)
    describe = runpy.run_path(str(ROOT / "setup.py"))["long_description"]
    text = (
        "See [a page](docs/a.md), [paper](https://arxiv.org/abs/1), "
        "[below](#below) and ![a curve](docs/a.png)."
    )
    assert describe(text, None) == (
        "See a page (docs/a.md), [paper](https://arxiv.org/abs/1), "
        "[below](#below) and a curve (docs/a.png)."
    )
    assert describe(text, "https://example.org/x") == (
        "See [a page](https://example.org/x/blob/main/docs/a.md), "
        "[paper](https://arxiv.org/abs/1), [below](#below) and "
        "![a curve](https://example.org/x/raw/main/docs/a.png)."
    )


def test_metadata(sdist):
    metadata = email.message_from_bytes(sdist["PKG-INFO"])
    assert metadata["Version"] == kft.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    for name in ("Summary", "Keywords", "Classifier", "Requires-Python"):
        assert metadata[name], name
    for named in metadata.get_all("Project-URL"):
        assert named.split(", ")[1].startswith("https://")
    description = metadata.get_payload()
    assert "](docs/" not in description
    assert "quick_start.md" in description


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {kft.__version__}\n" in text


def test_a_backend_is_chosen_by_an_extra(sdist):
    """What is installed without one runs on JAX and PyTorch too."""
    metadata = email.message_from_bytes(sdist["PKG-INFO"])
    required = metadata.get_all("Requires-Dist")
    always = {r.split("<")[0] for r in required if "extra ==" not in r}
    assert always == {"keras", "numpy", "h5py"}
    assert {"tensorflow", "jax", "torch"} <= set(
        metadata.get_all("Provides-Extra")
    )
