"""`vitral eval --protocol`: probes of frozen features, any weights, from the cache."""

import json

import pytest

from vitral.cli import main


@pytest.mark.parametrize(
    ("protocol", "flags", "rows"),
    [
        ("fewshot", [], ["1 shots", "5 shots"]),
        ("fewshot", ["--shots", "2", "3"], ["2 shots", "3 shots"]),
        ("linear", [], ["linear"]),
        ("knn", ["--k", "3"], ["3 neighbours"]),
    ],
)
def test_a_table_with_intervals(
    photos, tiny_weights, tmp_path, capsys, protocol, flags, rows
):
    words = ["eval", str(tiny_weights), str(photos), "--protocol", protocol, *flags]
    words += ["--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "images to learn from" in out
    for row in rows:
        assert f"  {row}" in out
    stored = json.loads((tmp_path / "out" / f"{protocol}.json").read_text())
    assert [row["what"] for row in stored["rows"]] == rows
    assert main([*words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in again] == rows
    for one, other in zip(again, stored["rows"], strict=True):
        before = [result["accuracy"] for result in other["results"]]
        assert [draw["accuracy"] for draw in one["draws"]] == before
        assert all(low <= high for low, high in (d["interval"] for d in one["draws"]))


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--protocol", "fewshot", "--shots", "500"], 3, "500"),
        (["--protocol", "knn", "--k", "500"], 2, "500"),
        (["--protocol", "guess"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_probed_is_one_line(
    photos, tiny_weights, tmp_path, capsys, flags, code, sentence
):
    words = ["eval", str(tiny_weights), str(photos), *flags]
    assert main([*words, "--cache-dir", str(tmp_path / "cache")]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in error


def test_weights_alone_need_data(tiny_weights, capsys):
    assert main(["eval", str(tiny_weights), "--protocol", "knn"]) == 2
    assert "name the data set" in capsys.readouterr().err
