"""The short version of `make torture`."""

import forked
import torture


def test_two_kills(tmp_path):
    """One in an update, one while a ticket is being written."""
    done = forked.run([torture.__file__, "--kills=2", "--directory", tmp_path])
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    update, ticket, end = done.stdout.splitlines()
    assert update.startswith("update: step") and update.endswith(": same")
    assert ticket.startswith("tickets: write") and ticket.endswith(": same")
    assert "2 kills" in end
