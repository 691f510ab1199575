"""Tables of several seeds, from files of any of the systems."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def tables(*paths):
    script = ROOT / "examples" / "system_tables.py"
    return subprocess.run(
        [sys.executable, script, *paths], capture_output=True, text=True
    )


def test_means_and_deviations(tmp_path):
    for seed, error in enumerate((0.1, 0.3)):
        rows = [{"model": "a", "error": error}, {"model": "b", "bytes": 1000}]
        path = tmp_path / f"{seed}.json"
        path.write_text(json.dumps({"config": {}, "rows": rows}))
    done = tables(tmp_path / "0.json", tmp_path / "1.json")
    assert "rows, 2 runs" in done.stdout
    assert "| a | 0.2000 ± 0.1414 | - |" in done.stdout
    assert "| b | - | 1,000 |" in done.stdout


def test_rows_by_name(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"teachers": {"ece": 0.25}, "student": {}}))
    said = tables(path).stdout
    assert (
        "| teachers | 0.2500 ± 0.0000 |" in said and "| student | - |" in said
    )


def test_no_files():
    done = tables()
    assert done.returncode != 0 and "system_tables.py" in done.stderr
