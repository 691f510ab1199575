"""Processes that share the work of a script."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SCRIPT = f"""
import os, pathlib, sys, time
sys.path.insert(0, {str(EXAMPLES)!r})
import processes
from absl import app

def main(argv):
    with processes.others():
        for name in processes.share_of("abcde"):
            pathlib.Path(name).write_text(str(os.getpid()))
        {{more}}

app.run(main)
"""


@pytest.fixture
def script(tmp_path):
    def write(more="pass"):
        (tmp_path / "script.py").write_text(SCRIPT.format(more=more))
        return [sys.executable, "script.py"]

    return write


def pid_of(path):
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    return int(path.read_text())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_does_its_share(tmp_path, script, count):
    command = [*script(), f"--processes={count}"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = [pid_of(tmp_path / name) for name in "abcde"]
    assert len(set(found)) == count
    assert found[:-count] == found[count:]


def test_a_failure_of_another_process_is_told(tmp_path, script):
    command = script("assert processes.is_first()")
    done = subprocess.run(
        [*command, "--processes=2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "One of the processes failed" in done.stderr.splitlines()[-1]


def test_they_end_with_the_first_even_if_it_is_killed(tmp_path, script):
    command = [*script("time.sleep(600)"), "--processes=2"]
    process = subprocess.Popen(command, cwd=tmp_path)
    other = pid_of(tmp_path / "b")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    stopped = time.monotonic() + 60
    while is_running(other):
        assert time.monotonic() < stopped
        time.sleep(0.05)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One whose parent has not asked yet how it ended.
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return not stat.exists() or " Z " not in stat.read_text()
