import dataclasses
import json

import exports
import keras
import numpy as np
import pytest

from keras_freetickets.deployment import apart
from keras_freetickets.deployment import formats
from keras_freetickets.deployment import plain
from keras_freetickets.deployment import production


def order(path, **changes):
    model = plain.plain_model(exports.ensemble())
    x = exports.examples(8)
    found = production.Order(
        job=formats.Job(model, formats.specs_of(model), samples=[x]),
        network=plain.one_network(exports.ensemble()),
        format="keras",
        path=str(path),
        limit=0.001,
        examples=[x],
        expected=[model.predict(x, verbose=0)],
        inputs="random inputs",
    )
    return dataclasses.replace(found, **changes)


def answered(given, folder):
    """What `answer` says of an order, in this process."""
    folder.mkdir()
    apart._ask(given, str(folder))
    apart.answer(folder)
    return json.loads((folder / "answer.json").read_text())


def test_an_order_is_the_same_there(tmp_path):
    given = order(tmp_path / "model.keras")
    expected = production.produce(order(tmp_path / "here.keras"))
    found = answered(given, tmp_path / "there")
    found["path"] = expected.path
    # Names of layers differ, and so the length of the config does.
    for name in ("bytes", "dense_bytes"):
        assert abs(found.pop(name) - getattr(expected, name)) < 50
    assert found.items() <= dataclasses.asdict(expected).items()
    again = apart._order(str(tmp_path / "there"))
    np.testing.assert_array_equal(again.job.samples[0], given.job.samples[0])
    assert again.network.count_params() == given.network.count_params()


def test_errors_come_back_by_their_class(tmp_path):
    wrong = [order(tmp_path / "model.keras").expected[0][::-1] * 2]
    given = order(tmp_path / "model.keras", expected=wrong)
    found = answered(given, tmp_path / "there")
    assert found["error"] == "RuntimeError"
    assert "predicts something else" in found["message"]


@pytest.mark.slow
def test_a_process_of_its_own(tmp_path):
    given = order(tmp_path / "model.keras")
    report = apart.produce(given, "tensorflow")
    assert report.runtime.endswith("tensorflow")
    assert keras.models.load_model(report.path).count_params() == 3 * 1347
    wrong = dataclasses.replace(given, format="saved_model", path=str(tmp_path))
    wrong.job.dtype = "int8_dynamic"
    wrong.limit = 1e-9
    wrong.path = str(tmp_path / "served")
    with pytest.raises(RuntimeError, match="predicts something else"):
        apart.produce(wrong, "tensorflow")
    with pytest.raises(RuntimeError, match="ended without an answer"):
        apart.produce(given, "no_such_backend")
