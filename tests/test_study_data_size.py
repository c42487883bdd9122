"""`vitral study data-size`: subsets, the probe, the curve, the page, the families."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

import vitral as vt
from helpers import TINY
from photos import make_photos
from vitral import plots
from vitral.cli import main
from vitral.data import Preprocess
from vitral.errors import ConfigError, DataError
from vitral.evaluation import Probe, fit_nested, wilson
from vitral.evaluation.probes import ridge
from vitral.models import ViT, ViTConfig
from vitral.studies import data_size, families
from vitral.studies.engine.subsets import nested_order, subset_sizes
from vitral.studies.engine.table import Difference, describe_leaders
from vitral.workflows.features.cache import ExtractedFeatures
from vitral.workflows.features.extract import SplitFeatures

LABELS = np.array([0] * 120 + [1] * 60 + [4] * 24)
NAMES = ("ant", "bee", "cow", "dog", "eel")

# Subsets


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_every_beginning_has_the_shares_of_the_whole(seed):
    order = nested_order(LABELS, seed)
    assert sorted(order) == list(range(len(LABELS)))
    for length in range(1, len(LABELS) + 1):
        counts = Counter(LABELS[order[:length]].tolist())
        for label, own in Counter(LABELS.tolist()).items():
            share = own / len(LABELS)
            assert abs(counts[label] - share * length) <= (3 * share + 1) / 2 + 1e-9
    # 10 : 5 : 2 without a remainder.
    assert Counter(LABELS[order[:102]].tolist()) == {0: 60, 1: 30, 4: 12}


def test_another_seed_is_another_order_and_the_same_seed_the_same():
    one, same, other = (nested_order(LABELS, seed) for seed in (3, 3, 4))
    assert one.tolist() == same.tolist()
    assert set(one[:34]) != set(other[:34])


def test_classes_of_one_size_take_turns_at_being_first():
    labels = np.repeat([0, 1], 20)
    first = {int(labels[nested_order(labels, seed)[0]]) for seed in range(20)}
    assert first == {0, 1}


def test_sizes_by_hand():
    # The second of 24 stands at 1.5 / 24 of the way: 8 ants and 4 bees at most before.
    assert subset_sizes(LABELS, NAMES)[0] == 8 + 4 + 2
    # Equal ratios: 204 / 14 in five steps of 1.7089.
    assert subset_sizes(LABELS, NAMES) == (14, 24, 41, 70, 119, 204)
    assert subset_sizes(np.tile([0, 1], 480), NAMES) == (30, 60, 120, 240, 480, 960)
    assert subset_sizes(LABELS, NAMES, (0.5, 0.25, 0.1)) == (20, 51, 102, 204)


@pytest.mark.parametrize("seed", range(12))
def test_the_smallest_default_subset_has_two_of_each(seed):
    first = nested_order(LABELS, seed)[: subset_sizes(LABELS, NAMES)[0]]
    assert min(Counter(LABELS[first].tolist()).values()) >= 2
    assert len(set(LABELS[first])) == 3


@pytest.mark.parametrize(
    ("labels", "fractions", "kind", "sentence"),
    [
        ([0] * 30, (), DataError, r"one class \(ant\)"),
        ([0] * 30 + [3], (), DataError, "dog has 1 training image: a subset needs 2"),
        ([0] * 80 + [3] * 4, (), DataError, r"dog has too few training images \(4\)"),
        ([0, 1] * 40, (0.5,), ConfigError, r"needs 4 sizes: got 2 \(40, 80 images\)"),
        ([0, 1] * 40, (0.0, 0.3, 0.5), ConfigError, "above 0 and at most 1: got 0,"),
        ([0, 1] * 40, (0.2, 0.3, 50.0), ConfigError, "above 0 and at most 1"),
        (
            [0] * 60 + [1] * 20,
            (0.02, 0.3, 0.5),
            DataError,
            r"smallest subset has 2 of 80 .* bee with 20 of them .* fraction of 0\.08",
        ),
    ],
)
def test_subsets_that_cannot_be(labels, fractions, kind, sentence):
    with pytest.raises(kind, match=sentence):
        subset_sizes(np.array(labels), NAMES, fractions)


# The probe


def blobs(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 3, images)
    x = generator.standard_normal((images, 7))
    x[np.arange(images), y] += 1.2
    return x, y


def test_ridge_answers_like_sklearn_with_one_strength():
    (x, y), (x_test, y_test) = blobs(50), blobs(200, seed=1)
    probe = ridge(x, y, x_test, y_test, l2=(5.0,))
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-5
    # The bias of 100 is hardly shrunk, so it is that of a free intercept.
    other = SklearnRidge(alpha=5.0).fit((x - mean) / scale, 2.0 * np.eye(3)[y] - 1)
    answers = other.predict((x_test - mean) / scale).argmax(axis=1)
    assert probe.predicted == tuple(answers.tolist())
    assert probe.accuracy == (answers == y_test).mean()
    assert (probe.protocol, probe.settings["l2"]) == ("ridge", 5.0)


@pytest.mark.parametrize("images", [5, 60])
def test_ridge_chooses_what_leaving_each_image_out_would_choose(images):
    x, y = blobs(images, seed=2)
    y[:3] = (0, 1, 2)
    l2s = (0.5, 4.0, 32.0, 256.0, 2048.0)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-5
    white = np.column_stack([(x - mean) / scale, np.full(images, 100.0)])
    targets = 2.0 * np.eye(3)[y] - 1

    def error(l2: float) -> float:
        total = 0.0
        for out in range(images):
            kept = np.arange(images) != out
            a, b = white[kept], targets[kept]
            weight = np.linalg.solve(a.T @ a + l2 * np.eye(8), a.T @ b)
            total += float(((targets[out] - white[out] @ weight) ** 2).mean())
        return total

    chosen = ridge(x, y, x, y, l2=l2s).settings["l2"]
    assert chosen == min(l2s, key=error)


def test_ridge_refuses_a_strength_of_zero():
    x, y = blobs(20)
    with pytest.raises(ConfigError, match=r"l2 must be above 0: got \[0\.0, 1\.0\]"):
        ridge(x, y, x, y, l2=(0.0, 1.0))


# The curve

SIZES = (30, 60, 120, 240, 480, 960)


def planted(n, a=0.9, b=1.2, c=0.5):
    return a - b * np.asarray(n, dtype=float) ** -c


def drawn(seed: int, curve=planted, deviation: float = 0.006) -> tuple[list, list]:
    """Ten draws of each size; noise that falls as the root of the size."""
    generator = np.random.default_rng(seed)
    sizes = [size for size in SIZES[:-1] for _ in range(10)] + [SIZES[-1]]
    n = np.array(sizes, dtype=float)
    seen = deviation * np.sqrt(SIZES[-1] / n) * np.sqrt(np.maximum(1 - n / 960, 0.0))
    shared = deviation * generator.standard_normal()
    right = curve(n) + shared + seen * generator.standard_normal(len(n))
    return sizes, np.clip(right, 0, 1).tolist()


def test_nested_noise_is_that_of_independent_images():
    noise, falls = [], []
    for seed in range(12):
        fit = fit_nested(*drawn(seed), resamples=100)
        noise.append(fit.noise)
        falls.append(fit.noise_falls)
    assert np.mean(noise) == pytest.approx(0.006, rel=0.2)
    assert np.mean(falls) == pytest.approx(0.5, abs=0.1)


def test_nested_interval_holds_what_is_measured_with_twice_the_images():
    inside, widths = 0, []
    for seed in range(30):
        expected = fit_nested(*drawn(seed), resamples=100, seed=seed).predict(1920)
        new = 0.006 / np.sqrt(2) * np.random.default_rng(900 + seed).standard_normal()
        inside += expected.interval.contains(float(planted(1920) + new))
        widths.append(expected.interval.high - expected.interval.low)
    assert inside >= 25
    assert np.mean(widths) < 0.05


def test_nested_finds_a_planted_curve_and_a_flat_one():
    steep = fit_nested(*drawn(0, deviation=1e-9))
    assert (steep.a, steep.b, steep.c) == pytest.approx((0.9, 1.2, 0.5), rel=1e-3)
    assert steep.predict(9600).accuracy == pytest.approx(planted(9600), abs=1e-4)
    assert steep.trend == "rising"
    flat = fit_nested(*drawn(1, lambda n: 0.8 + 0 * n, deviation=0.001))
    assert flat.trend == "flat"
    assert flat.verdict.startswith("Flat: twice the images (1,920) would add ")


def test_a_perfect_score_of_every_draw_is_flat_and_has_no_error():
    sizes, _ = drawn(0)
    fit = fit_nested(sizes, [1.0] * len(sizes))
    assert fit.trend == "flat"
    assert fit.predict(5000).accuracy == pytest.approx(1.0)


def test_nested_says_what_does_not_fit():
    sizes, right = drawn(0)
    with pytest.raises(DataError, match=r"largest size, 960, .* got 2 measurements"):
        fit_nested([*sizes, 960], [*right, 0.9])
    with pytest.raises(DataError, match=r"30 images were drawn 2 times"):
        fit_nested(sizes[8:], right[8:])
    with pytest.raises(DataError, match="needs 4 sizes: got 3"):
        fit_nested(sizes[30:], right[30:])
    with pytest.raises(DataError, match="50 sizes, 51 accuracies"):
        fit_nested(sizes[1:], right)
    with pytest.raises(DataError, match="divide percentages by 100"):
        fit_nested(sizes, [100 * one for one in right])
    with pytest.raises(ConfigError, match="resamples >= 100"):
        fit_nested(sizes, right, resamples=5)


# The study


def fake_probe(curve):
    """A protocol that answers as a curve says, whatever the features."""

    def protocol(x, y, x_test, y_test) -> Probe:
        n = 10_000
        right = round(n * float(curve(len(x))))
        return Probe(
            protocol="fake",
            n=n,
            accuracy=right / n,
            interval=wilson(right, n),
            predicted=(),
            settings={},
            seconds=0.0,
        )

    return protocol


def extracted(images: int) -> ExtractedFeatures:
    y = torch.arange(images) % 3
    return ExtractedFeatures(
        torch.ones(images, 5), y, tuple(map(str, range(images))), ()
    )


@pytest.fixture
def fakes(monkeypatch):
    """Features without a model: 700 + 260 to learn from, 90 to measure."""

    def found(weights, data, **about) -> SplitFeatures:
        return SplitFeatures(extracted(700), extracted(90), NAMES[:3], extracted(260))

    monkeypatch.setattr(data_size, "extract_splits", found)


@pytest.mark.parametrize(
    ("curve", "trend"), [(planted, "rising"), (lambda n: 0.8, "flat")]
)
def test_the_whole_path_recovers_what_is_planted(
    fakes, monkeypatch, tmp_path, capsys, curve, trend
):
    monkeypatch.setitem(data_size.PROTOCOLS, "ridge", fake_probe(curve))
    assert main(["study", "data-size", "w", "d", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["sizes"] == [30, 60, 120, 240, 480, 960]
    own = stored["weights"]["w"]
    assert own["trend"] == trend
    assert stored["verdict"] == own["verdict"]
    assert stored["verdict"] in out
    assert own["whole"]["accuracy"] == pytest.approx(float(curve(960)), abs=1e-4)
    assert [one["images"] for one in own["predicted"]] == [1920, 3840, 9600]
    for one in own["predicted"]:
        low, high = one["interval_90"]
        assert one["accuracy"] == pytest.approx(float(curve(one["images"])), abs=2e-3)
        assert low - 1e-3 <= one["accuracy"] <= high + 1e-3
    # Ten draws of five sizes, and the whole once.
    assert len(own["measured"]) == 51
    page = (tmp_path / "data-size.md").read_text()
    assert f"**Verdict.** {stored['verdict']}" in page
    assert "vitral study data-size w d --out" in page
    assert "| 960 |" in page
    assert (tmp_path / "data-size.png").read_bytes()[:4] == b"\x89PNG"


def test_two_weights_whose_order_turns(fakes, monkeypatch):
    curves = iter([planted] * 51 + [lambda n: 0.75] * 51)
    monkeypatch.setitem(
        data_size.PROTOCOLS,
        "ridge",
        lambda *sets: fake_probe(next(curves))(*sets),
    )
    answer = data_size.run_data_size_study(["a/m", "b/m"], "d")
    assert list(answer.curves) == ["a/m", "b/m"]
    # 0.9 - 1.2 / sqrt(n) passes 0.75 at 64 images.
    assert "behind up to 60 and ahead from 120" in answer.verdict
    assert answer.difference("a/m", "b/m", 960).value == pytest.approx(
        float(planted(960)) - 0.75, abs=1e-4
    )


def test_real_features_of_a_tiny_model(tmp_path, capsys):
    photos = make_photos(tmp_path / "photos", per_class=40)
    vt.save(tmp_path / "w", ViT(ViTConfig(**TINY)), Preprocess(image_size=(48, 80)))
    words = ["study", "data-size", str(tmp_path / "w"), str(photos)]
    words += ["--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    words += ["--seeds", "0", "1", "2", "--protocol", "knn"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "next: vitral train" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored["protocol"] == "knn"
    assert stored["seeds"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["w"], 2, "Give weights and data"),
        (["w", "d", "--protocol", "magic"], 2, "invalid choice: 'magic'"),
        (
            ["w", "d", "--seeds", "0", "0", "1"],
            2,
            "as in `--seeds 0 1 2`: got 2 (0 0 1)",
        ),
        (["w", "d", "--seeds", "3"], 2, "as in `--seeds 0 1 2`: got 1 (3)."),
        (["w", "w", "d"], 2, "The same weights are given twice"),
        (["w", "d", "--protocl", "knn"], 2, "Did you mean --protocol"),
        (
            ["--families", "vit", "--data", "d"],
            2,
            "two or more of vit, resnet: got vit",
        ),
        (["--families", "vit", "swin", "--data", "d"], 2, "got vit, swin"),
        (["w", "d", "--families", "vit", "resnet"], 2, "there are no weights"),
    ],
)
def test_bad_words(capsys, words, code, sentence):
    assert main(["study", "data-size", *words]) == code
    assert sentence in capsys.readouterr().err


def test_an_unknown_protocol_in_python():
    with pytest.raises(ConfigError, match="one of ridge, linear, knn: got magic"):
        data_size.run_data_size_study(["w"], "d", protocol="magic")


def test_the_list_has_it_and_help_shows_its_flags(capsys):
    assert main(["study"]) == 0
    assert "data-size    Would more training images help" in capsys.readouterr().out
    assert main(["study", "--help-all"]) == 0
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("--families", "--protocol", "--fractions"))


# Who is ahead


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        ((-4, -2, 1, 3), "The order turns: with 10 images B is at -4.0 points"),
        ((2, 3, 3, 4), "B is ahead of A at every size: +2.0 points"),
        ((0.1, 3, 3, 4), "with 10 they cannot be told apart"),
        ((2, 0.1, 3, 4), "but not clearly at every size between"),
        ((-3, -1, 0.1, 0.2), "with 80 images (+0.2 points (spread 0.5)); with 10 A is"),
        ((3, 1, 0.1, 0.2), "; with 10 B is ahead"),
        ((0.1, 0.1, 0.1, 0.2), ", nor with 10"),
    ],
)
def test_leads(differences, sentence):
    sizes = (10, 20, 40, 80)

    def gap(first: str, second: str, size: int) -> Difference:
        value = differences[sizes.index(size)] / 100
        return Difference(value if first == "B" else -value, 0.005)

    (found,) = describe_leaders(("A", "B"), sizes, gap)
    assert sentence in found


# Families


def test_families_have_about_equal_compute():
    macs = [
        vt.models.get_config(
            variant.model, {**variant.changes, "image_size": 28}
        ).macs()
        for variant in families.MODELS.values()
    ]
    assert max(macs) < 1.1 * min(macs)


def test_families_train_on_nested_tables_of_their_own(tmp_path, monkeypatch, capsys):
    photos = make_photos(tmp_path / "photos", per_class=40)
    before = sorted(path for path in photos.rglob("*"))
    monkeypatch.setattr(families, "STEPS", 4)
    out = tmp_path / "out"
    words = ["study", "data-size", "--families", "vit", "resnet", "--seeds", "0"]
    words += ["--data", str(photos), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--fractions", "0.2", "0.4", "0.7"]) == 0
    text = capsys.readouterr().out
    assert "| training images | ViT | ResNet |" in text
    assert sorted(path for path in photos.rglob("*")) == before
    kept: list[set[str]] = []
    held = set()
    for table in sorted(out.glob("tables/*.csv"), key=lambda file: file.stat().st_size):
        rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
        kept.append({path for path, _, split in rows if split == "train"})
        held.add(
            frozenset((path, split) for path, _, split in rows if split != "train")
        )
        assert all((out / "tables" / path).is_file() for path, _, _ in rows)
    assert len(kept) == 4
    assert all(small < large for small, large in itertools.pairwise(kept))
    assert len(held) == 1
    stored = json.loads((out / "result.json").read_text())
    assert len(stored["table"]) == 8
    assert "families.png" in (out / "families.md").read_text()


# The figure


def test_the_figure_has_a_curve_for_each_and_refuses_what_it_cannot_draw():
    one = plots.DataSizeSeries([10, 10, 40, 160], [0.5, 0.6, 0.7, 0.8])
    plot = plots.data_size_curves({"A": one, "B": one}, verdict="Rising: it is.")
    assert "A from 55.0" in plot.alt
    assert plot.alt.endswith("Rising: it is.")
    with pytest.raises(DataError, match="shows 1 to 5 models: got 0"):
        plots.data_size_curves({})
    with pytest.raises(DataError, match="A must have an accuracy for each size: got 1"):
        plots.data_size_curves({"A": plots.DataSizeSeries([10, 20], [0.5])})
    with pytest.raises(DataError, match="divide percentages by 100"):
        plots.data_size_curves({"A": plots.DataSizeSeries([10, 20], [50, 60])})
    with pytest.raises(DataError, match="1 image or more"):
        plots.data_size_curves({"A": plots.DataSizeSeries([0, 20], [0.5, 0.6])})


def test_a_run_on_its_own_images_is_refused(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "split.csv"):
        (run / name).write_text("{}")

    class Opened:
        class config:
            data = "d"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_size, "open_run", lambda path: Opened)
        with pytest.raises(ConfigError, match="Give the weights that it began with"):
            data_size.run_data_size_study([str(run)], "d")


def test_other_parts_of_a_path_tell_weights_apart():
    assert data_size._short_names(["x/a.safetensors", "y/a.safetensors"]) == [
        "x/a.safetensors",
        "y/a.safetensors",
    ]
    assert data_size._short_names([str(Path("x/a")), "y/b"]) == ["a", "b"]
