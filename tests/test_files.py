import os

import pytest

from keras_freetickets.files import atomic_path


def test_file_appears_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.endswith("a.txt")
        with open(temporary, "w") as file:
            file.write("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.txt"]


def test_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        with atomic_path(path) as temporary:
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
