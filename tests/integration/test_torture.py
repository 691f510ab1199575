"""The short version of `make torture`."""

import os
import subprocess
import sys

import torture


def test_two_kills(tmp_path):
    """One in an update, one while a ticket is being written."""
    done = subprocess.run(
        [
            sys.executable,
            torture.__file__,
            "--kills=2",
            "--directory",
            tmp_path,
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    update, ticket, end = done.stdout.splitlines()
    assert update.startswith("update: step") and update.endswith(": same")
    assert ticket.startswith("tickets: write") and ticket.endswith(": same")
    assert "2 kills" in end
