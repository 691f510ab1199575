import pathlib

import pytest

from keras_freetickets.kernels import compiled


def test_the_cache_lies_in_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.cache_folder().parent == tmp_path / "keras_freetickets"
    kernel = compiled.compiled(_twice)
    assert kernel(2) == 4
    files = list(tmp_path.glob("keras_freetickets/**/*.nbi"))
    assert len(files) == 1
    beside = pathlib.Path(__file__).parent / "__pycache__"
    assert not list(beside.glob("*_twice*.nbi"))


def test_where_nothing_can_be_written_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiled.compiled(_twice)(3) == 6


def test_numbas_own_setting_comes_first(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", str(tmp_path))
    assert compiled.cache_folder().is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("batch", "wide", "narrow"),
    [
        (1, 16, 16),
        (31, 32, 32),
        (33, 16, 16),
        (64, 64, 32),
        (120, 128, 32),
        (256, 128, 32),
    ],
)
def test_lanes(monkeypatch, batch, wide, narrow):
    for largest, lanes in ((128, wide), (32, narrow)):
        monkeypatch.setattr(compiled, "largest_tile", lambda n=largest: n)
        assert compiled.lanes_for(batch) == lanes


def _twice(x):
    return x + x
