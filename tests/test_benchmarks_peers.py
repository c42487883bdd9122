"""`python -m benchmarks.peers` with a tiny model and the real peers; no speed is
asserted."""

import json

import pytest
import torch
from benchmarks.peers import exact, loading, memory, peer_models, peers, startup
from benchmarks.peers.__main__ import main, run
from benchmarks.peers.figure import bars
from benchmarks.peers.interleave import WorkTiming, quartiles, ratio, run_interleaved
from benchmarks.peers.page import BEGIN, END, insert_into_page, markdown
from benchmarks.peers.peers import Side, build_sides, require_agreement
from benchmarks.peers.running import BenchConfig
from benchmarks.peers.targets import targets
from torch import nn

from vitral.errors import ConfigError, GateError, VitralError

RECTANGLE = (32, 48)

# Each of these libraries warns at its import about names that others gave up.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def sides():
    for package in ("timm", "transformers", "vit_pytorch"):
        pytest.importorskip(package)
    return build_sides("vit_mu8", image_size=RECTANGLE, classes=7)


def test_every_peer_is_the_same_function(sides):
    names = [side.name for side in sides.available]
    assert names == [
        "vitral",
        "timm",
        "transformers",
        "vitral as vit-pytorch",
        "vit-pytorch",
    ]
    assert sides.absent == {"torchvision": "takes square images only, not 32 x 48"}
    images = torch.randn(3, 3, *RECTANGLE)
    with torch.no_grad():
        logits = {side.name: side.model.eval()(images) for side in sides.available}
    # Random, not a fresh head of zeros, which would agree with anything.
    assert logits["vitral"].std() > 0.2
    assert (logits["timm"] - logits["vitral"]).abs().max() < 1e-5
    assert (logits["vit-pytorch"] - logits["vitral"]).abs().max() > 0.1


def test_another_function_is_refused(sides):
    other = build_sides("vit_mu8", image_size=RECTANGLE, classes=7).available[1].model
    with torch.no_grad():
        other.blocks[0].mlp.fc1.bias += 0.01
    wrong = (sides.available[0], Side(name="timm", library="timm", model=other))
    images = torch.randn(2, 3, *RECTANGLE)
    with pytest.raises(
        GateError, match=r"timm and vitral give logits that are .* apart"
    ):
        require_agreement(wrong, images)
    narrow = Side(name="narrow", library="timm", model=nn.Flatten())
    with pytest.raises(GateError, match=r"narrow gives logits of shape \(2, 4608\)"):
        require_agreement((sides.available[0], narrow), images)
    broken = Side(name="nan", library="timm", model=_Broken())
    with pytest.raises(GateError, match="that are nan apart"):
        require_agreement((sides.available[0], broken), images)


class _Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 7), torch.nan)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    known = peer_models.importlib.util.find_spec

    def find(name):
        return None if name == "timm" else known(name)

    monkeypatch.setattr(peer_models.importlib.util, "find_spec", find)
    monkeypatch.setattr(peers, "BUILDERS", {"timm": peers.timm_sides})
    found = build_sides("vit_mu8", image_size=RECTANGLE, classes=7)
    assert [side.name for side in found.available] == ["vitral"]
    assert found.absent == {"timm": "not installed: pip install timm"}


@pytest.mark.parametrize("name", ["OpenVINO", "ONNX Runtime"])
def test_exported_models_are_the_same_function(sides, name, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip({"OpenVINO": "openvino"}.get(name, "onnxruntime"))
    monkeypatch.setattr(exact, "PATHS", {name: exact.PATHS[name]})
    # As many images as heads: an optimizer of graphs has confused the two.
    images = torch.randn(sides.config.num_heads, 3, *RECTANGLE)
    (side,), absent = exact.exact_sides(sides.ours, images)
    assert (side.name, side.kind, absent) == (name, "exact", {})
    require_agreement((sides.available[0], side), images)


def test_a_compiler_that_fails_is_named(sides, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler here\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(exact, "PATHS", {"torch.compile": exact.compile_torch})
    found, absent = exact.exact_sides(sides.ours, torch.randn(2, 3, *RECTANGLE))
    assert found == ()
    assert absent == {"torch.compile": "cannot compile here: no compiler here"}


def test_ratios_are_those_of_medians_in_one_run():
    slow = WorkTiming(wall=(4.0, 2.0, 100.0), cpu=(1.0, 1.0, 1.0))
    fast = WorkTiming(wall=(1.0, 2.0, 2.0), cpu=(1.0, 1.0, 1.0))
    assert ratio(slow, fast).value == 2.0  # 4 / 2
    # By round: 4, 1, 50.
    assert (ratio(slow, fast).low, ratio(slow, fast).high) == (2.5, 27.0)
    assert quartiles([3.0]) == (3.0, 3.0)


def test_work_takes_turns():
    seen: list[str] = []
    work = {name: lambda name=name: seen.append(name) for name in "abc"}
    taken = run_interleaved(work, 4, warmup=1)
    assert {name: len(times.wall) for name, times in taken.items()} == dict.fromkeys(
        "abc", 4
    )
    rounds = [seen[i : i + 3] for i in range(0, 15, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len({turn[0] for turn in rounds}) == 3
    with pytest.raises(ConfigError, match="`rounds` must be at least 1: got 0"):
        run_interleaved(work, 0)


def test_memory_of_a_step_is_that_of_a_process_of_its_own():
    shared = {"image_size": RECTANGLE, "classes": 7, "threads": 1}
    libraries = ("vitral", "vitral, checkpointed")
    found = memory.measure("vit_ti16", 128, libraries=libraries, **shared)
    plain, checkpointed = found["rows"]
    # 12 blocks of 128 images of 7 tokens keep about 16 x 192 numbers a token.
    assert plain["above_imports_mb"] > 100
    assert checkpointed["above_imports_mb"] < 0.9 * plain["above_imports_mb"]
    absent = memory.measure("vit_mu8", 2, libraries=("torchvision",), **shared)[
        "absent"
    ]
    assert absent == {"torchvision": "takes square images only, not 32 x 48"}
    with pytest.raises(VitralError, match="memory of nobody could not be measured"):
        memory.measure("vit_mu8", 2, libraries=("nobody",), **shared)


def test_startup_has_its_rows():
    found = startup.measure(1, imports=("vitral", "no_such_module"))
    assert [row["name"] for row in found["rows"]] == ["import vitral", "vitral --help"]
    assert found["absent"] == {"no-such-module": "cannot be imported"}


# timm leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loading_is_beside_timm():
    pytest.importorskip("timm")
    rows = loading.measure(2, images=6, batch=4, pixels=48)["rows"]
    assert [row["name"] for row in rows] == ["vitral", "timm", "timm prefetcher"]
    assert rows[0]["ratio"] == 1.0


def test_the_command_writes_numbers_tables_and_a_picture(tmp_path, capsys):
    for package in ("timm", "transformers", "vit_pytorch"):
        pytest.importorskip(package)
    page = tmp_path / "docs" / "speed.md"
    page.parent.mkdir()
    page.write_text(f"# Speed\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n")
    words = ["--quick", "--eager", "--what", "training", "inference"]
    words += ["--out", str(tmp_path / "b"), "--page", str(page)]
    run(words)
    result = json.loads((tmp_path / "b" / "bench.json").read_text())
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert [cell["batch"] for cell in result["inference"]] == [1, 2]
    (step,) = result["training"]
    rows = {row["name"]: row for row in step["rows"]}
    assert {"vitral", "timm", "timm, its optimizer", "torchvision"} <= set(rows)
    assert rows["vitral"]["ratio"] == 1.0
    assert rows["vit-pytorch"]["against"] == "vitral as vit-pytorch"
    assert 0 < rows["timm"]["share_of_peak"] < 1
    assert rows["timm"]["cpu_seconds"] > 0
    for name in ("bench.md", "bench.png"):
        assert (tmp_path / "b" / name).stat().st_size > 500
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("# Speed\n")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "(images/bench.png)" in text
    assert (page.parent / "images" / "bench.png").exists()
    assert "batch 2" in capsys.readouterr().out + text


def test_bounds_are_met_or_not():
    def cell(*rows):
        return {
            "model": "vit_s16",
            "batch": 8,
            "rows": [
                {
                    "name": name,
                    "kind": kind,
                    "ratio": value,
                    "ratio_quartiles": (value, value),
                }
                for name, kind, value in rows
            ],
        }

    peers = (("timm", "peer", 0.8), ("torchvision", "peer", 0.5))
    result = {
        "inference": [cell(("vitral", "ours", 1.0), *peers, ("ORT", "exact", 1.2))],
        "training": [cell(("timm", "peer", 1.25))],
        "memory": [
            {
                "model": "vit_s16",
                "batch": 32,
                "rows": [
                    {"name": "vitral", "peak_mb": 900.0},
                    {"name": "vitral, checkpointed", "peak_mb": 700.0},
                    {"name": "timm", "peak_mb": 1000.0},
                ],
            }
        ],
        "startup": [{"rows": [{"name": "import vitral", "seconds": 0.2}]}],
    }
    found = [(target["value"], target["met"]) for target in targets(result)]
    assert found == [
        (1.25, True),  # ours over timm's 0.8
        (pytest.approx(1.5), True),  # 1.2 over 0.8
        (0.8, False),
        (0.9, True),
        (0.7, False),
        (0.2, False),
    ]
    picture = bars(result)
    assert picture.alt.startswith("Times as fast as eager vitral: ORT 1.20 at vit_s16")


def test_a_page_without_a_place_is_refused(tmp_path):
    page = tmp_path / "speed.md"
    with pytest.raises(ConfigError, match="cannot be read"):
        insert_into_page(page, "new")
    page.write_text(f"{END}\n{BEGIN}\n")
    with pytest.raises(ConfigError, match="it needs a line `<!-- bench -->`"):
        insert_into_page(page, "new")
    machine = {
        "when": "2026-11-22",
        "processor": "P",
        "cores": 2,
        "instructions": "AVX2",
        "matrix_unit": "",
        "memory_gb": 8.0,
        "system": "Linux",
        "python": "3.12",
        "threads": 2,
        "load": None,
        "versions": {"torch": "2.14", "timm": ""},
    }
    bare = {"machine": machine, "seconds": 3, "targets": [], "absent": {"timm": "why"}}
    text = markdown(bare, "python -m benchmarks.peers")
    assert "load unknown" in text
    assert "torch 2.14." in text
    assert "Not measured: timm (why)." in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "tnt_s16"], "only plain Vision Transformers"),
        (["--rounds", "0"], "`rounds` must be at least 1: got 0"),
        (["--batch", "0"], "`batch` must be at least 1: got 0"),
        (["--threads", "-1"], "`threads` must not be negative: got -1"),
        (["--what", "speed"], "invalid choice"),
    ],
)
def test_settings_that_cannot_be_measured(
    words, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["peers", "--out", str(tmp_path), *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


def test_the_default_is_what_the_page_shows():
    config = BenchConfig()
    assert config.models == ("vit_s16", "vit_b16")
    assert config.batches == (1, 8)
    with pytest.raises(ConfigError, match="`what` must be of inference"):
        BenchConfig(what=("speed",))
    with pytest.raises(ConfigError, match="needs a model"):
        BenchConfig(models=())
