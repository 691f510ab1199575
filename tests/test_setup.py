"""What a source distribution holds, and what its metadata say."""

import pathlib
import runpy
import shutil
import subprocess
import sys
import tarfile

import pytest

setuptools = pytest.importorskip("setuptools")
ROOT = pathlib.Path(__file__).parents[1]


def git(*arguments):
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def declared(monkeypatch):
    """What setup.py defines, and the arguments it gives to setuptools."""
    given = {}
    monkeypatch.setattr(
        setuptools, "setup", lambda **named: given.update(named)
    )
    return runpy.run_path(str(ROOT / "setup.py")), given


@pytest.mark.skipif(
    shutil.which("git") is None
    or git("rev-parse", "--show-toplevel").stdout.strip() != str(ROOT),
    reason="not in a repository",
)
def test_the_sdist_holds_what_git_tracks(tmp_path):
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path]
        + ["sdist", "--dist-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {
            member.name.split("/", 1)[1]
            for member in archive.getmembers()
            if member.isfile()
        }
    held = {name for name in held if ".egg-info/" not in name}
    tracked = set(git("ls-files").stdout.split())
    assert not tracked - held
    known = git("ls-files", "--others", "--exclude-standard").stdout.split()
    assert not held - tracked - set(known) - {"PKG-INFO", "setup.cfg"}


def test_links_in_the_description(declared):
    defined, given = declared
    describe = defined["long_description"]
    text = "See [a page](docs/a.md) and [paper](https://arxiv.org/abs/1)."
    assert describe(text, None) == (
        "See a page (docs/a.md) and [paper](https://arxiv.org/abs/1)."
    )
    assert describe(text, "https://example.org/x") == (
        "See [a page](https://example.org/x/blob/main/docs/a.md) and "
        "[paper](https://arxiv.org/abs/1)."
    )
    assert "](docs/" not in given["long_description"]
    assert "quick_start.md" in given["long_description"]


def test_metadata(declared):
    _, given = declared
    for name in ("keywords", "classifiers", "project_urls", "description"):
        assert given[name], name
    assert all(u.startswith("https://") for u in given["project_urls"].values())
