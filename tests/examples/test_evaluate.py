"""examples/evaluate.py and the report that it writes."""

import html.parser
import json
import pathlib
import re
import types

import forked
import keras
import numpy as np
import pytest
from absl.testing import flagsaver

import keras_freetickets as kft

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "evaluate.py"

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="pipelines of TensorFlow"
)


def network(seed, shape=(16, 16, 1), classes=10, activation="softmax"):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation=activation),
        ]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An ensemble, a baseline that returns logits, and the digits."""
    folder = tmp_path_factory.mktemp("models")
    members = [kft.sparsify(network(i), 0.5, seed=i) for i in range(3)]
    kft.EnsembleModel(members).save(folder / "ensemble.keras")
    network(3, activation=None).save(folder / "dense.keras")
    data_dir = str(folder / "data")
    data = kft.datasets.load(
        "optdigits", data_dir=data_dir, image_size=(16,) * 2
    )
    batches = list(data.test.take(1).as_numpy_iterator())
    x, y = (np.concatenate(part)[:60] for part in zip(*batches, strict=True))
    np.savez(folder / "digits.npz", x=x, y=y)
    return folder


def run(*flags):
    return forked.run([SCRIPT, *flags], ROOT)


@pytest.fixture(scope="module")
def report(folder):
    done = run(
        f"--model={folder / 'ensemble.keras'}",
        f"--baseline={folder / 'dense.keras'}",
        "--dataset=optdigits",
        f"--data_dir={folder / 'data'}",
        "--resize",
        "--limit=60",
        "--ood=noise,optdigits",
        "--corruptions=fog,contrast",
        "--attack=0.03",
        f"--output_dir={folder / 'report'}",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "stdout.txt").write_text(done.stdout)
    return folder / "report"


def test_figures(folder, report):
    found = json.loads((report / "report.json").read_text())
    assert found["config"]["corruptions"] == ["fog", "contrast"]
    assert found["names"] == {"baseline": "dense", "model": "ensemble"}
    digits = np.load(folder / "digits.npz")
    x, y = digits["x"], digits["y"]
    ensemble = keras.saving.load_model(folder / "ensemble.keras")
    logits = keras.saving.load_model(folder / "dense.keras").predict(x)
    dense = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = {"ensemble": ensemble.predict(x), "dense": dense}
    for i, member in enumerate(ensemble.predict_members(x)):
        expected[f"ensemble: ticket {i}"] = member
    assert set(found["clean"]) == set(expected)
    for name, p in expected.items():
        row = found["clean"][name]
        assert row["accuracy"] == pytest.approx(np.mean(p.argmax(1) == y))
        picked = p[np.arange(60), y]
        assert row["nll"] == pytest.approx(-np.log(picked).mean(), rel=1e-4)
        brier = np.square(p - np.eye(10)[y]).sum(axis=1).mean()
        assert row["brier"] == pytest.approx(brier, rel=1e-4)
    # The digits are told from themselves by nothing.
    for model in ("ensemble", "dense"):
        for values in found["ood"]["optdigits"][model].values():
            assert values["auroc"] == pytest.approx(0.5)
    scores = {"maximum probability", "entropy", "energy", "maximum logit"}
    assert set(found["ood"]["noise"]["dense"]) == scores
    assert set(found["ood"]["noise"]["ensemble"]) == {
        *scores,
        "mutual information",
    }
    # Of one linear layer the images that its gradient makes worse.
    attack = found["attack"]
    assert set(attack["ensemble"]) == {"itself", "its first member"}
    worse = attack["dense"]["itself"]
    assert worse["nll"] > found["clean"]["dense"]["nll"]
    assert worse["accuracy"] < found["clean"]["dense"]["accuracy"]
    votes = ensemble.predict_members(x).argmax(axis=-1)
    share = np.mean(votes[0] != votes[1])
    diversity = found["diversity"]["ensemble"]
    matrix = diversity["disagreement_matrix"]
    assert matrix[0][1] == pytest.approx(share)
    masks = [
        ensemble.member(i).masked_kernels[0].mask.numpy() for i in range(2)
    ]
    overlap = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    matrix = diversity["mask_overlap_matrix"]
    assert matrix[0][1] == pytest.approx(overlap)


def test_corruptions(folder, report):
    """Of all put together, and by severity; as the library corrupts them."""
    found = json.loads((report / "report.json").read_text())["corruptions"]
    levels = [
        one
        for rows in found["ensemble"]["by_corruption"].values()
        for one in rows
    ]
    assert len(levels) == 2 * 5
    for key in ("accuracy", "nll"):
        mean = np.mean([level[key] for level in levels])
        together = found["ensemble"]["together"][key]
        assert together == pytest.approx(mean, rel=1e-5)
    data = kft.datasets.load(
        "optdigits", data_dir=str(folder / "data"), image_size=(16, 16)
    )
    foggy = kft.datasets.corrupt_dataset(data.test, "fog", 5, like=data)
    x, y = next(foggy.as_numpy_iterator())
    p = keras.saving.load_model(folder / "ensemble.keras").predict(x[:60])
    expected = np.mean(p.argmax(1) == y[:60])
    row = found["ensemble"]["by_corruption"]["fog"][4]
    assert row["accuracy"] == pytest.approx(expected)


def test_tables_are_printed(folder, report):
    found = json.loads((report / "report.json").read_text())["clean"]
    lines = (folder / "stdout.txt").read_text().splitlines()
    place = lines.index("Clean images")
    assert lines[place + 1].split()[:3] == ["model", "accuracy", "NLL"]
    shown = {
        line.split("  ")[0]: line.split("  ")[1:]
        for line in lines[place + 3 : place + 3 + len(found)]
    }
    for name, row in found.items():
        cells = [cell.strip() for cell in shown[name] if cell.strip()]
        assert cells[0] == f"{row['accuracy']:.4f}"
    for title in ("Unknown images", "Corruptions", "Attacks"):
        assert title in lines
    assert lines[-1].startswith("Files: ")


class _Page(html.parser.HTMLParser):
    """The tags of a page with their attributes; raises at one left open."""

    void = {"meta", "img"}

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page(report):
    text = (report / "report.html").read_text()
    tags = _Page(text).found
    sources = [attrs["src"] for tag, attrs in tags if tag == "img"]
    assert len(sources) == 7
    assert all(s.startswith("data:image/png;base64,iVBOR") for s in sources)
    # Nothing is fetched from elsewhere.
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    assert "http" not in re.sub(r'src="[^"]*"', "", text)


def test_markdown(report):
    text = (report / "report.md").read_text()
    pictures = re.findall(r"!\[.+\]\((.+)\)", text)
    assert len(pictures) == 7
    for name in pictures:
        assert (report / name).read_bytes()[:4] == b"\x89PNG"
    found = json.loads((report / "report.json").read_text())
    accuracy = found["clean"]["dense"]["accuracy"]
    assert f"| dense | {accuracy:.4f} |" in text
    assert {p.name for p in report.iterdir()} == {
        "pictures",
        "report.html",
        "report.json",
        "report.md",
    }


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--model"),
        (["--model=none.keras"], "must be a .keras file"),
        ([f"--model={SCRIPT}", "--baseline=none"], "must be a .keras file"),
        ([f"--model={SCRIPT}", "--limit=1"], "--limit"),
        ([f"--model={SCRIPT}", "--calibration=platt"], "--calibration"),
    ],
)
def test_a_wrong_flag_is_refused_before_any_work(tmp_path, flags, message):
    done = run(*flags, f"--output_dir={tmp_path / 'out'}")
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def script(monkeypatch, folder):
    """The script as a module, with flags that fit the digits."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import evaluate

    with flagsaver.flagsaver():
        flags = {
            "model": folder / "ensemble.keras",
            "dataset": "optdigits",
            "data_dir": folder / "data",
        }
        given = [f"--{name}={value}" for name, value in flags.items()]
        evaluate.FLAGS(["evaluate.py", *given])
        yield evaluate


def test_models_that_do_not_fit(script, tmp_path, folder):
    (tmp_path / "text.keras").write_text("no model")
    network(0, classes=1).save(tmp_path / "one.keras")
    network(0, shape=(16,)).save(tmp_path / "flat.keras")
    for name, message in [
        ("text", "cannot be loaded"),
        ("one", "two classes or more"),
        ("flat", r"must map images .* maps \(16,\)"),
    ]:
        path = tmp_path / f"{name}.keras"
        with pytest.raises(SystemExit, match=f"--baseline=.*{message}"):
            script.classifiers.load("x", "baseline", str(path))


@pytest.mark.parametrize(
    "paths, names",
    [
        (["/a/ensemble.keras"], ["ensemble"]),
        (["/a/dense.keras", "/a/ensemble.keras"], ["dense", "ensemble"]),
        (["/a/x.keras", "/b/x.keras"], ["a/x", "b/x"]),
        (["/a/b/x.keras", "/c/b/x.keras"], ["/a/b/x", "/c/b/x"]),
    ],
)
def test_models_go_by_their_files(script, paths, names):
    assert script.names_of(paths) == names


def test_models_of_other_images(script):
    pair = [
        script.classifiers.Network(
            "baseline", network(0, (8, 8, 1)), "--baseline=b"
        ),
        script.classifiers.Network("model", network(0), "--model=a"),
    ]
    with pytest.raises(SystemExit, match=r"baseline=b \(8, 8, 1\) and --model"):
        script.classifiers.check_alike(pair)
    script.classifiers.check_alike(pair[1:])


def test_two_ensembles_have_a_section_each(script, folder, tmp_path):
    script.FLAGS.output_dir = str(tmp_path)
    model = keras.saving.load_model(folder / "ensemble.keras")
    pair = [
        script.classifiers.Network(name, model, "")
        for name in ("baseline", "model")
    ]
    script.FLAGS.ood = []
    digits = np.load(folder / "digits.npz")
    data = types.SimpleNamespace(num_classes=10)
    images = script.image_sets.Images(data, digits["x"], None, digits["y"])
    results, sections = script.evaluation.evaluate(pair, images, [])
    assert set(results["diversity"]) == {"baseline", "model"}
    files = [one.file for section in sections for one in section.pictures]
    assert len(files) == len(set(files)) == 2 + 2 * 2


def test_an_unknown_class_is_no_familiar_one(script):
    """Scores of MOON's models, with an output more than there are classes."""
    import measures

    known, unknown = [[0.6, 0.2, 0.2]], [[0.03, 0.02, 0.95]]
    p = np.array(known + unknown, "float32")
    made = measures.confidences(script.classifiers.Predictions(p), 2)
    assert set(made) == {"maximum probability"}
    np.testing.assert_allclose(made["maximum probability"], [0.6, 0.03])
    row = measures.scores(p, np.array([0, 0]), 2)
    # Both are class 0, of the known ones; so nothing is at risk.
    assert row["accuracy"] == 1.0 and row["aurc"] == 0.0
    nll = -(np.log(0.6) + np.log(0.03)) / 2
    assert row["nll"] == pytest.approx(nll, rel=1e-5)


def test_energy_is_that_before_the_softmax(script, folder):
    x = np.load(folder / "digits.npz")["x"]
    ensemble = keras.saving.load_model(folder / "ensemble.keras")
    made = script.classifiers.Network("model", ensemble, "").predict(x, True)
    for i in range(3):
        kernel, bias = (
            np.array(v.value) for v in ensemble.member(i).trainable_variables
        )
        expected = x.reshape(60, -1) @ kernel + bias
        np.testing.assert_allclose(made.logits[i], expected, atol=1e-4)
    # The model itself is left as it was.
    np.testing.assert_allclose(made.probabilities.sum(1), 1.0, rtol=1e-5)


def test_what_is_neither_probabilities_nor_logits(script, folder):
    x = np.load(folder / "digits.npz")["x"]
    one = script.classifiers.Network(
        "model", network(0, activation="sigmoid"), "--model=a"
    )
    with pytest.raises(SystemExit, match=r"--model=a: .* pass `from_logits`"):
        one.predict(x)


def test_a_calibrated_model_is_opened(script, folder, tmp_path):
    digits = np.load(folder / "digits.npz")
    x, y = digits["x"], digits["y"]
    for name in ("ensemble", "dense"):
        model = keras.saving.load_model(folder / f"{name}.keras")
        kft.calibration.calibrate(model, x, y).save(tmp_path / "c.keras")
        made = script.classifiers.load(
            "model", "model", str(tmp_path / "c.keras")
        )
        assert made.input_shape == (16, 16, 1)
        p = made.predict(x, True)
        assert p.logits is None
        np.testing.assert_allclose(p.probabilities.sum(1), 1.0, rtol=1e-5)


def test_predictions_that_are_not_finite(script):
    model = network(0, activation=None)
    model.layers[-1].bias.assign(np.full(10, np.nan))
    broken = script.classifiers.Network("model", model, "--model=a")
    with pytest.raises(SystemExit, match="--model=a predicts NaN"):
        broken.predict(np.zeros((2, 16, 16, 1), "float32"))


def test_images_of_the_wrong_size(script):
    with pytest.raises(SystemExit, match=r"\(8, 8, 1\) .*--resize"):
        script.image_sets.load((16, 16, 1))
    script.FLAGS.resize = True
    with pytest.raises(SystemExit, match=r"takes \(16, 16, 3\)$"):
        script.image_sets.load((16, 16, 3))


def test_images_out_of_range(script):
    class Data:
        mean, std = (0.5,), (0.25,)

    x = np.array([[[[-2.0], [2.0]]]], "float32")
    np.testing.assert_array_equal(
        script.image_sets.as_pixels("", x, Data).ravel(), [0, 255]
    )
    with pytest.raises(SystemExit, match=r"--dataset=a .* to 510"):
        script.image_sets.as_pixels(
            "--dataset=a", x + np.array([[[0], [4]]]), Data
        )


def test_sets_without_images(script):
    import tensorflow as tf

    empty = tf.data.Dataset.from_tensors((np.zeros((2, 1)), [0, 1])).take(0)
    for batches in (None, empty):
        with pytest.raises(SystemExit, match="--ood=a has no test images"):
            script.image_sets.read("--ood=a", batches)


def test_labels_that_do_not_fit(script):
    one = script.classifiers.Network(
        "model", network(0, classes=5), "--model=a"
    )
    with pytest.raises(SystemExit, match=r"from 0 to 5, and --model=a .* 5 cl"):
        script.image_sets.check_labels(np.arange(6), [one])
    with pytest.raises(SystemExit, match="one class only, 3"):
        script.image_sets.check_labels(np.array([3, 3]), [one])
    script.image_sets.check_labels(np.arange(5), [one])


def test_sets_and_corruptions_of_other_names(script):
    pixels = np.zeros((2, 16, 16, 1), "uint8")
    script.FLAGS.corruptions = ["fog", "smog"]
    with pytest.raises(SystemExit, match=r"--corruptions=smog: .* one of"):
        script.image_sets.chosen_corruptions(pixels)
    script.FLAGS.corruptions = ["all"]
    assert script.image_sets.chosen_corruptions(pixels) == list(
        kft.datasets.CORRUPTIONS
    )
    with pytest.raises(SystemExit, match=r"--corruptions=.*16 or more"):
        script.image_sets.chosen_corruptions(pixels[:, :8, :8])
    script.FLAGS.corruptions, script.FLAGS.published_corruptions = [], True
    with pytest.raises(SystemExit, match="needs --corruptions"):
        script.image_sets.chosen_corruptions(pixels)
    images = script.image_sets.Images(None, pixels, pixels, None)
    with pytest.raises(SystemExit, match="--ood=kmnits: `name` must be"):
        script.image_sets.load_unknown("kmnits", images)


def test_calibration_needs_validation_images(script, folder):
    script.FLAGS.calibration = "temperature"
    script.FLAGS.validation_fraction = 0.0
    script.FLAGS.resize = True
    images = script.image_sets.load((16, 16, 1))
    with pytest.raises(SystemExit, match="--validation_fraction must be above"):
        script.classifiers.calibrated([], images.data)
    script.FLAGS.validation_fraction = 0.1
    data = script.image_sets.load((16, 16, 1)).data
    model = keras.saving.load_model(folder / "ensemble.keras")
    both = script.classifiers.calibrated(
        [script.classifiers.Network("model", model, "")], data
    )
    names = [one.name for one in both]
    assert names == [
        "model, temperature, pool first",
        "model, temperature, members first",
    ]
    assert not any(one.is_ensemble for one in both)


def test_masked_temperature_is_fitted_to_training_images(script, monkeypatch):
    given = []

    def calibrate(model, x, y, calibrator, order, *args, **kwargs):
        given.append((x, calibrator, order, kwargs["input_mask_ratio"]))
        return model

    monkeypatch.setattr(kft.calibration, "calibrate", calibrate)
    script.FLAGS.calibration = "masked_temperature"
    data = types.SimpleNamespace(train="training", validation=None)
    one = script.classifiers.Network("model", network(0), "--model=a")
    (made,) = script.classifiers.calibrated([one], data)
    assert made.name == "model, masked temperature"
    assert given == [("training", "temperature", "pool_first", 0.3)]


@pytest.mark.slow
def test_models_are_compared(folder, tmp_path):
    for seed in range(2):
        network(seed).save(tmp_path / f"dense_{seed}.keras")
    command = [
        str(ROOT / "examples" / "compare_trust.py"),
        f"--models=dense={tmp_path}/dense_SEED.keras",
        "--dataset=optdigits",
        f"--data_dir={folder / 'data'}",
        "--num_seeds=2",
        "--resize",
        "--limit=40",
        "--ood=noise",
        "--corruptions=contrast",
        f"--output_dir={tmp_path / 'out'}",
    ]
    done = forked.run(command, ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())
    runs = [
        json.loads((tmp_path / "out" / f"dense_{i}/report.json").read_text())
        for i in range(2)
    ]
    nlls = [one["clean"][f"dense_{i}"]["nll"] for i, one in enumerate(runs)]
    mean, deviation = rows["dense"]["nll"]
    assert mean == pytest.approx(sum(nlls) / 2)
    assert deviation == pytest.approx(abs(nlls[0] - nlls[1]) / 2**0.5)
    assert f"| nll | {mean:.4f} ± {deviation:.4f} |" in done.stdout
    assert {"corrupted nll", "AUROC noise, max p"} <= set(rows["dense"])
    command[1] = "--models=dense=dense.keras"
    done = forked.run(command, ROOT)
    assert done.returncode and "SEED" in done.stderr
