"""The scripts in examples/, run as a user runs them, from the root."""

import pathlib
import subprocess

import forked

ROOT = pathlib.Path(__file__).parents[2]


def run(
    script: str, *flags: str, check: bool = True
) -> subprocess.CompletedProcess:
    """Runs a script in a process that has imported Keras."""
    return forked.run([ROOT / "examples" / script, *flags], ROOT, check=check)


def finished(script: str, *flags: str) -> str:
    """What a script prints, which must not fail."""
    done = run(script, *flags, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def check_refused(script: str, flags: list, output: pathlib.Path, said: str):
    """Flags are refused by name, and the directory stays free."""
    done = run(script, *flags, f"--output_dir={output}", check=False)
    assert done.returncode != 0 and said in done.stderr
    assert not output.exists()
