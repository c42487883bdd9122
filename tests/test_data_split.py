"""vitral.data.split: stable, sized and saved splits."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitral.data import Dataset, Example, FileReader, split
from vitral.data.split import apply, assign, hash_fraction, save
from vitral.errors import ConfigError, DataError


def make(ids, *, splits=None, groups=None, classes=3) -> Dataset:
    return Dataset(
        name="made",
        root=Path("made"),
        classes=tuple(f"class {index}" for index in range(classes)),
        examples=tuple(
            Example(
                id=name,
                label=(place % classes,),
                split=splits[place] if splits else "",
                group=groups[place] if groups else "",
            )
            for place, name in enumerate(ids)
        ),
        reader=FileReader(root=Path("made")),
    )


def placed(dataset: Dataset) -> dict[str, str]:
    return {example.id: example.split for example in dataset.examples}


IDS = [f"class/{number}.jpg" for number in range(10_000)]


def test_position_is_the_hash_as_documented():
    digest = hashlib.sha256(b"3:a/b.jpg").digest()
    expected = int.from_bytes(digest[:8], "big") / 2**64
    assert hash_fraction(3, "a/b.jpg") == pytest.approx(expected, abs=1e-15)
    assert 0 <= hash_fraction(3, "a/b.jpg") < 1


def test_thresholds_are_test_then_val_then_train():
    dataset = assign(make(IDS), seed=5, val=0.1, test=0.2)
    for name, chosen in placed(dataset).items():
        place = hash_fraction(5, name)
        expected = "test" if place < 0.2 else "val" if place < 0.1 + 0.2 else "train"
        assert chosen == expected
    sizes = {name: len(dataset.select(name)) for name in ("train", "val", "test")}
    # Four standard deviations of a binomial with 10,000 draws.
    assert abs(sizes["test"] - 2000) < 160
    assert abs(sizes["val"] - 1000) < 120


def test_adding_removing_and_reordering_moves_nothing():
    whole = placed(assign(make(IDS), seed=0, val=0.1, test=0.2))
    part = placed(assign(make(IDS[3::2][::-1]), seed=0, val=0.1, test=0.2))
    assert all(whole[name] == chosen for name, chosen in part.items())
    more = placed(assign(make([*IDS, "new/1.jpg"]), seed=0, val=0.1, test=0.2))
    assert {name: more[name] for name in IDS} == whole
    other = placed(assign(make(IDS), seed=1, val=0.1, test=0.2))
    assert other != whole


def test_growing_a_share_keeps_its_members():
    small = assign(make(IDS), seed=0, val=0.0, test=0.2)
    large = assign(make(IDS), seed=0, val=0.0, test=0.3)
    assert set(small.select("test")) < set(large.select("test"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=20, max_size=80), st.integers(0, 99))
def test_no_group_straddles(numbers, seed):
    groups = [f"patient {number}" if number else "" for number in numbers]
    ids = [f"{place}.jpg" for place in range(len(groups))]
    dataset = make([*ids, "t"], groups=[*groups, ""])
    try:
        dataset = assign(dataset, seed=seed, val=0.2, test=0.3)
    except DataError:
        return  # one group only, and it went to test
    for group in set(groups) - {""}:
        of_group = {item.split for item in dataset.examples if item.group == group}
        assert len(of_group) == 1


def test_given_splits_are_kept():
    splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    dataset = make([f"{i}" for i in range(12)], splits=splits)
    assert list(placed(assign(dataset, seed=0, val=0.5, test=0.4)).values()) == splits


def test_val_is_carved_out_of_train_when_only_test_is_given():
    ids = IDS[:2000]
    splits = ["test" if place % 4 == 0 else "train" for place in range(2000)]
    dataset = assign(make(ids, splits=splits), seed=0, val=0.1, test=0.2)
    after = placed(dataset)
    for name, before in zip(ids, splits, strict=True):
        carved = before == "train" and hash_fraction(0, name) < 0.1
        assert after[name] == ("val" if carved else before)
    assert "val is 10% of train, by hash: no val split was given" in dataset.notes
    untouched = assign(make(ids, splits=splits), seed=0, val=0, test=0.2)
    assert list(placed(untouched).values()) == splits


def test_train_and_val_only_have_no_test():
    splits = ["train"] * 9 + ["val"] * 3
    dataset = make([f"{i}" for i in range(12)], splits=splits)
    result = assign(dataset, seed=0, val=0.1, test=0.2)
    assert list(placed(result).values()) == splits
    assert "no test split: only train and val were given" in result.notes


def test_train_only_is_divided():
    result = assign(make(IDS, splits=["train"] * 10_000), seed=0, val=0.1, test=0.2)
    assert placed(result) == placed(assign(make(IDS), seed=0, val=0.1, test=0.2))
    assert "val and test are carved out of train, by hash" in result.notes


def test_gaps_are_noted_and_an_empty_train_refused():
    result = assign(make(["a", "b", "c"]), seed=0, val=0.01, test=0.01)
    assert "val is empty: too few examples or groups for its share" in result.notes
    together = make(["a", "b"], groups=["g", "g"])
    seed = next(seed for seed in range(99) if hash_fraction(seed, "g") < 0.5)
    with pytest.raises(DataError, match="no example is left for train of 2"):
        assign(together, seed=seed, val=0.1, test=0.5)


def test_a_group_that_given_splits_part_is_noted():
    splits = ["train", "test", "train", "test"]
    dataset = make(list("abcd"), splits=splits, groups=["p", "p", "q", ""])
    result = assign(dataset, seed=0, val=0, test=0.2)
    assert "1 group(s) are in more than one given split: p" in result.notes


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.5, 0.5), (0.1, 1.0)])
def test_wrong_shares(val, test):
    with pytest.raises(ConfigError, match="must be shares of at least 0 that leave"):
        assign(make(["a"]), seed=0, val=val, test=test)


def test_saved_split_wins_over_the_hash(tmp_path):
    path = tmp_path / "split.csv"
    names = [f'{number}, "x"\n.jpg' for number in range(40)]
    before = assign(make(names), seed=0, val=0.2, test=0.3)
    save(before, path)
    assert path.read_text().startswith("path,label,split\n")
    after = apply(make([*names[5:], "new.jpg"]), path, seed=9, val=0.2, test=0.3)
    chosen = placed(after)
    assert {name: chosen[name] for name in names[5:]} == {
        name: placed(before)[name] for name in names[5:]
    }
    assert (
        chosen["new.jpg"]
        == placed(
            assign(make(["new.jpg", "1", "2", "3", "4"]), seed=9, val=0.2, test=0.3)
        )["new.jpg"]
    )
    assert any(
        "5 example(s) of the saved split are gone" in note for note in after.notes
    )
    assert "1 example(s) are newer than the saved split" in after.notes


def test_a_new_member_follows_its_group(tmp_path):
    path = tmp_path / "split.csv"
    dataset = make(["a", "b", "c"], groups=["p", "p", "q"])
    fixed = replace(
        dataset,
        examples=tuple(
            replace(example, split="val" if example.group == "p" else "train")
            for example in dataset.examples
        ),
    )
    save(fixed, path)
    assert path.read_text().splitlines()[:2] == [
        "path,label,split,group",
        "a,class 0,val,p",
    ]
    for seed in range(10):
        grown = make(["a", "b", "c", "d"], groups=["p", "p", "q", "p"])
        assert placed(apply(grown, path, seed=seed))["d"] == "val"


def test_files_that_are_no_split(tmp_path):
    path = tmp_path / "split.csv"
    with pytest.raises(DataError, match=r"cannot be read as a split.csv"):
        apply(make(["a"]), path)
    path.write_text("path,label,split\na,x,dev\n")
    with pytest.raises(DataError, match="expected the columns path,label,split with"):
        apply(make(["a"]), path)
    path.write_text("path,label,split\nz,x,train\n")
    with pytest.raises(DataError, match="names none of the 1 examples of made"):
        split.apply(make(["a"]), path)
