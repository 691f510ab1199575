import os
import pathlib
import socket
import subprocess
import sys

import pytest

from keras_freetickets.files import atomic_path
from keras_freetickets.files import is_partial
from keras_freetickets.files import read_sealed
from keras_freetickets.files import write_sealed


def test_file_appears_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.endswith("a.txt")
        with open(temporary, "w") as file:
            file.write("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.txt"]


def test_what_is_half_written_is_told_by_its_name(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        open(temporary, "w").close()
        (held,) = os.listdir(tmp_path)
        assert is_partial(held)
    assert not is_partial("a.txt")


def test_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        with open(temporary, "w") as file:
            file.write("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_directory_is_replaced(tmp_path):
    for text in ("first", "second"):
        with atomic_path(tmp_path / "folder") as temporary:
            os.makedirs(temporary)
            with open(os.path.join(temporary, text), "w") as file:
                file.write(text)
    assert os.listdir(tmp_path / "folder") == ["second"]


def write_two(folder, text):
    """Writes a graph, and its weights beside it."""
    with atomic_path(folder / "a.xml", ["a.bin"]) as temporary:
        holder = pathlib.Path(temporary).parent
        (holder / "a.xml").write_text(text)
        (holder / "a.bin").write_text(text)


def texts(folder):
    return {one.name: one.read_text() for one in sorted(folder.iterdir())}


def test_files_beside_come_with_it(tmp_path):
    for text in ("first", "second"):
        write_two(tmp_path, text)
        assert texts(tmp_path) == {"a.bin": text, "a.xml": text}


@pytest.mark.parametrize("failing", range(4))
def test_of_two_files_both_are_replaced_or_none(tmp_path, monkeypatch, failing):
    write_two(tmp_path, "old")
    replace, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError("No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_two(tmp_path, "new")
    assert texts(tmp_path) == {"a.bin": "old", "a.xml": "old"}


KILLED_WHILE_REPLACING = """
import os
import pathlib
import sys

from keras_freetickets.files import atomic_path

folder, failing = pathlib.Path(sys.argv[1]), int(sys.argv[2])
replace, calls = os.replace, []


def killed(source, target):
    calls.append(target)
    if len(calls) > failing:
        os._exit(9)
    replace(source, target)


os.replace = killed
with atomic_path(folder / "a.xml", ["a.bin"]) as temporary:
    for name in ("a.xml", "a.bin"):
        pathlib.Path(temporary).with_name(name).write_text("new")
"""


@pytest.mark.parametrize("failing", range(4))
def test_killed_while_two_files_are_replaced(tmp_path, failing):
    write_two(tmp_path, "old")
    arguments = ["-c", KILLED_WHILE_REPLACING, str(tmp_path), str(failing)]
    process = subprocess.run([sys.executable, *arguments], check=False)
    assert process.returncode == 9
    write(tmp_path)
    (tmp_path / "a.txt").unlink()
    assert texts(tmp_path) == {"a.bin": "new", "a.xml": "new"}


def test_failure_leaves_no_new_directory(tmp_path):
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "deep" / "deeper" / "a.txt"
    with pytest.raises(RuntimeError), atomic_path(path):
        raise RuntimeError
    assert os.listdir(tmp_path / "there") == []


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def abandoned(folder, pid, host=None):
    """What a process that was killed while it wrote leaves behind."""
    host = socket.gethostname() if host is None else host
    holder = folder / f".partial-{host}-{pid}-x_1"
    (holder / "folder").mkdir(parents=True)
    (holder / "folder" / "new").write_text("new")
    return holder


def write(folder):
    with atomic_path(folder / "a.txt") as temporary:
        pathlib.Path(temporary).write_text("a")


def test_leftovers_of_a_killed_process_go_with_the_next_write(tmp_path):
    abandoned(tmp_path, dead_process())
    write(tmp_path)
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("host", [None, "another-machine"])
def test_what_others_are_writing_is_left_alone(tmp_path, host):
    pid = os.getppid() if host is None else dead_process()
    holder = abandoned(tmp_path, pid, host)
    write(tmp_path)
    assert (holder / "folder" / "new").exists()


def test_killed_between_the_two_renames_of_a_directory(tmp_path):
    holder = abandoned(tmp_path, dead_process())
    (holder / ".partial-replaced").mkdir()
    write(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "folder"]
    assert (tmp_path / "folder" / "new").read_text() == "new"


CONTENT = {"tickets": [{"file": "a.keras", "epoch": 3, "value": 0.1 + 0.2}]}


def test_sealed_content_comes_back(tmp_path):
    write_sealed(tmp_path / "a.json", CONTENT)
    assert read_sealed(tmp_path / "a.json", {"tickets"}) == CONTENT


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    """Refused, or so small a change that the content is the same."""
    path = tmp_path / "a.json"
    write_sealed(path, CONTENT)
    whole = path.read_bytes()
    damaged = [whole[:i] for i in range(len(whole))]
    for i in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[i // 8] ^= 1 << i % 8
        damaged.append(bytes(flipped))
    refused = 0
    for text in damaged:
        path.write_bytes(text)
        for sealed in (True, False):
            try:
                assert read_sealed(path, {"tickets"}, sealed) == CONTENT
            except ValueError as error:
                assert "a.json'" in str(error)
                refused += 1
    assert refused > 1.9 * len(damaged)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        '"a"',
        "{}",
        '{"tickets": []',
        "[" * 100000,
        '{"tickets": [], "more": 1}',
        '{"tickets": [], "sha256": "0"}',
        "ÿ",
    ],
    ids=lambda text: text[:30],
)
def test_foreign_files_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"a\.json'"):
        read_sealed(tmp_path / "a.json", {"tickets"}, sealed=False)


def test_what_would_never_end_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match="not a regular file"):
        read_sealed(tmp_path / "a.json", {"tickets"})
