"""vitral.data.split: stable, sized and saved splits."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitral.data import Dataset, Example, FileReader, split
from vitral.data.split import apply, assign, save
from vitral.data.strata import hash_fraction
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


def test_without_classes_the_hash_alone_decides():
    dataset = assign(make(IDS, classes=1), seed=5, val=0.1, test=0.2)
    for name, chosen in placed(dataset).items():
        place = hash_fraction(5, name)
        expected = "test" if place < 0.2 else "val" if place < 0.1 + 0.2 else "train"
        assert chosen == expected
    sizes = {name: len(dataset.select(name)) for name in ("train", "val", "test")}
    # Four standard deviations of a binomial with 10,000 draws.
    assert abs(sizes["test"] - 2000) < 160
    assert abs(sizes["val"] - 1000) < 120
    part = placed(assign(make(IDS[3::2][::-1], classes=1), seed=5, val=0.1, test=0.2))
    assert part.items() <= placed(dataset).items()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 65, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_every_class_gives_its_share_in_the_order_of_its_hashes(count, seed):
    dataset = make([f"{i}.jpg" for i in range(3 * count)])
    dataset = assign(dataset, seed=seed, val=0.1, test=0.2)
    for index in range(3):
        of_class = [item for item in dataset.examples if item.label == (index,)]
        of_class.sort(key=lambda item: hash_fraction(seed, item.id))
        order = [item.split for item in of_class]
        n_test, n_val = order.count("test"), order.count("val")
        assert order[:n_test] == ["test"] * n_test
        assert order[n_test : n_test + n_val] == ["val"] * n_val
        assert abs(n_test - 0.2 * count) < 1
        assert abs(n_val - 0.1 * count) < 1
        assert order[-1] == "train"


def test_shares_of_many_small_classes_are_right_on_average():
    """Whether a share of two images is rounded up is chance, by class."""
    dataset = make([f"{i}.jpg" for i in range(6000)], classes=3000)
    dataset = assign(dataset, seed=0, val=0.1, test=0.2)
    # floor(0.4 + u) of each class, and floor(0.6 + u) - floor(0.4 + u).
    assert abs(len(dataset.select("test")) - 1200) < 110
    assert abs(len(dataset.select("val")) - 600) < 90
    train = {item.label for item in dataset.select("train")}
    assert len(train) == 3000


def test_an_image_moves_at_most_one_other_across_a_boundary():
    before = placed(assign(make(IDS[:99]), seed=0, val=0.1, test=0.2))
    crossings = []
    for number in range(200):
        # Place 99 is of class 0.
        grown = assign(make([*IDS[:99], f"new/{number}"]), seed=0, val=0.1, test=0.2)
        after = placed(grown)
        moved = [name for name in before if before[name] != after[name]]
        assert all(IDS.index(name) % 3 == 0 for name in moved)
        between = Counter(frozenset((before[name], after[name])) for name in moved)
        assert between[frozenset(("test", "val"))] <= 1
        assert between[frozenset(("val", "train"))] <= 1
        assert set(between) <= {frozenset(("test", "val")), frozenset(("val", "train"))}
        crossings.append(len(moved))
    assert 0 in crossings


def test_a_class_that_grows_by_a_tenth_moves_few():
    whole = placed(assign(make(IDS), seed=0, val=0.1, test=0.2))
    part = placed(assign(make(IDS[:9000]), seed=0, val=0.1, test=0.2))
    assert sum(whole[name] != part[name] for name in part) < 60
    turned = placed(assign(make(IDS), seed=1, val=0.1, test=0.2))
    assert sum(whole[name] != turned[name] for name in whole) > 3000


def test_order_of_the_list_and_other_classes_do_not_matter():
    dataset = make(IDS[:300])
    whole = placed(assign(dataset, seed=0, val=0.1, test=0.2))
    turned = replace(dataset, examples=dataset.examples[::-1])
    assert placed(assign(turned, seed=0, val=0.1, test=0.2)) == whole
    two = tuple(item for item in dataset.examples if item.label != (1,))
    part = placed(assign(replace(dataset, examples=two), seed=0, val=0.1, test=0.2))
    assert part.items() <= whole.items()


def label_sets(*labels: tuple[int, ...]) -> Dataset:
    dataset = make([f"{i}.jpg" for i in range(len(labels))])
    examples = tuple(
        replace(example, label=label)
        for example, label in zip(dataset.examples, labels, strict=True)
    )
    return replace(dataset, examples=examples)


@pytest.mark.parametrize("seed", range(20))
def test_each_of_several_labels_is_in_train(seed):
    # 100 images: all have 0, four have 1, two have 2 beside the other two.
    labels = [(0, 1, 2)] * 2 + [(0, 1)] * 2 + [(0,)] * 76 + [()] * 20
    dataset = assign(label_sets(*labels), seed=seed, val=0.1, test=0.2)
    train = {label for item in dataset.select("train") for label in item.label}
    assert train == {0, 1, 2}
    empty = [item.split for item in dataset.examples if not item.label]
    assert (empty.count("test"), empty.count("val")) == (4, 2)


@pytest.mark.parametrize("seed", range(20))
def test_a_label_that_is_never_the_rarest_is_in_train(seed):
    # Three images have 0, three have 2, and 0 is the first of equals.
    labels = [(0, 2), (1, 2), (2, 0), (0,), (1,)]
    dataset = assign(label_sets(*labels), seed=seed, val=0.3, test=0.5)
    train = {label for item in dataset.select("train") for label in item.label}
    assert train == {0, 1, 2}


def test_groups_of_a_class_share_out_and_stay_whole():
    groups = [f"scene {i // 5}" for i in range(600)]
    labels = [((i // 5) % 3,) for i in range(600)]
    dataset = label_sets(*labels)
    dataset = replace(
        dataset,
        examples=tuple(
            replace(example, group=group)
            for example, group in zip(dataset.examples, groups, strict=True)
        ),
    )
    dataset = assign(dataset, seed=3, val=0.1, test=0.2)
    assert len({(item.group, item.split) for item in dataset.examples}) == 120
    counts = dataset.counts()
    for name in dataset.classes:
        # 200 images of a class in groups of five: 40 +- 5 and 20 +- 5.
        assert abs(counts["test"][name] - 40) < 5
        assert abs(counts["val"][name] - 20) < 5


def test_a_small_val_is_noted_once():
    few = assign(make(IDS[:200]), seed=0, val=0.1, test=0.2)
    size = len(few.select("val"))
    notes = [note for note in few.notes if "fewer than 30" in note]
    assert notes == [
        f"val has fewer than 30 images ({size}): its numbers, and the step that they "
        "choose as the best, are rough"
    ]
    given = make(IDS[:60], splits=["train"] * 30 + ["val"] * 29 + ["test"])
    assert "fewer than 30 images (29)" in str(
        assign(given, seed=0, val=0, test=0).notes
    )
    enough = make(IDS[:60], splits=["train"] * 29 + ["val"] * 30 + ["test"])
    assert "fewer" not in str(assign(enough, seed=0, val=0, test=0).notes)


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


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (["train", "val", "test"], "train, val and test are the data's own"),
        (["train", "test"], "test is the data's own: no share was taken for it"),
    ],
)
def test_a_share_that_is_not_taken_is_noted(splits, said):
    dataset = make([f"{i}.png" for i in range(90)], splits=(splits * 90)[:90])
    found = assign(dataset, seed=0, val=0.3, test=0.3)
    assert sum(said in note for note in found.notes) == 1
    asked_for_none = assign(dataset, seed=0, val=0.0, test=0.0)
    assert not any("data's own" in note for note in asked_for_none.notes)


def test_val_is_carved_out_of_train_when_only_test_is_given():
    ids = IDS[:2000]
    splits = ["test" if place % 4 == 0 else "train" for place in range(2000)]
    dataset = assign(make(ids, splits=splits), seed=0, val=0.1, test=0.2)
    after = placed(dataset)
    for name, before in zip(ids, splits, strict=True):
        assert after[name] == before or (before, after[name]) == ("train", "val")
    # A class has 500 images in train.
    assert set(dataset.counts()["val"].values()) == {50}
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
    together = make(["a", "b"], groups=["g", "g"], classes=1)
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
    fresh = assign(make([*names[5:], "new.jpg"]), seed=9, val=0.2, test=0.3)
    assert chosen["new.jpg"] == placed(fresh)["new.jpg"]
    assert any(
        "5 example(s) of the saved split are gone" in note for note in after.notes
    )
    assert "1 example(s) are newer than the saved split" in after.notes


def test_a_new_image_of_a_given_split_stays_there(tmp_path):
    path = tmp_path / "split.csv"
    save(make(["a", "b", "c"], splits=["train", "train", "test"]), path)
    for name in ("train", "val", "test"):
        grown = make(list("abcd"), splits=["train", "train", "test", name])
        assert placed(apply(grown, path))["d"] == name


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
