"""The table of named weights: its schema, and its numbers counted again."""

import re
from collections import Counter

import pytest
import timm
import torch

import vitral.models
from memory_file import MemoryFile
from vitral.errors import WeightsError
from vitral.models.meta_init import meta_init
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.detect import detect_layout, read_layout
from vitral.weights.zoo import find_default, find_record, records
from vitral.weights.zoo.record import STATISTICS

ROWS = list(records().values())
NOW = [row for row in ROWS if row.state == "now"]
LICENCES = {
    "apache-2.0",
    "mit",
    "cc-by-nc-4.0",
    "dinov3-license",
    "not stated (code: bsd-3-clause)",
}


def names(rows):
    return [row.name for row in rows]


def test_every_row_is_complete():
    assert len(ROWS) == 64
    for row in ROWS:
        assert re.fullmatch(r"[a-z0-9_]+", row.name)
        assert row.hub or row.official, row.name
        assert bool(row.hub) == bool(row.hub_file), row.name
        assert not row.official or row.official.startswith("https://"), row.name
        if row.official and row.state == "now":
            assert row.official_layout, row.name
        assert row.licence in LICENCES, row.name
        assert row.pixels in STATISTICS, row.name
        assert row.pooling in ("token", "avg", "map"), row.name
        assert row.state in ("now", "later"), row.name
        assert (row.state == "later") == bool(row.reason), row.name
        assert not row.revision or re.fullmatch("[0-9a-f]{40}", row.revision)
        digits = r"sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{6,32}"
        assert not row.checksum or re.fullmatch(digits, row.checksum), row.name
        assert not row.patch or row.run_size % row.patch == 0, row.name
        assert not row.note or row.note.endswith("."), row.name


def test_no_name_means_two_rows():
    for field in ("name", "timm", "hub", "official"):
        counts = Counter(value for row in ROWS if (value := getattr(row, field)))
        assert max(counts.values()) == 1, field
    for row in ROWS:
        assert find_record(row.name) is row
        if row.timm:
            assert (
                find_record(row.timm) is find_record(f"hf-hub:timm/{row.timm}") is row
            )


def test_defaults_are_weights_of_that_model():
    marked = [row for row in ROWS if row.default]
    assert len({row.model for row in marked}) == len(marked) >= 15
    for row in marked:
        assert find_default(row.model) is row
        assert row.model in vitral.models.names()
        assert not row.needs_consent
        assert row.state == "now"


@pytest.mark.parametrize("row", [it for it in ROWS if it.timm], ids=lambda it: it.name)
def test_facts_are_those_of_timm(row):
    """Pixels, licence and head as timm publishes them for that tag."""
    theirs = timm.models.get_pretrained_cfg(row.timm)
    mean, std = STATISTICS[row.pixels]
    assert theirs.mean == mean
    assert theirs.std == std
    assert theirs.input_size[1] == row.image_size
    assert theirs.crop_pct == row.crop
    assert theirs.interpolation == row.interpolation
    if row.licence != "mit":  # where the authors' own repository says other than timm
        assert theirs.license == row.licence
    if row.pixels != "clip":
        assert theirs.num_classes == row.classes


def config_of(row):
    """The config that vitral reads for a row, from tensors on the meta device."""
    if not row.timm:
        changes = {"num_classes": row.classes, "image_size": row.image_size}
        return vitral.models.get_config(row.model, changes)
    with torch.device("meta"):
        model = timm.create_model(row.timm, num_classes=row.classes)
    about = {key: model.pretrained_cfg[key] for key in ("input_size", "mean", "std")}
    beside = {
        "architecture": row.timm.partition(".")[0],
        "global_pool": getattr(model, "global_pool", "avg"),
        "num_classes": row.classes,
        "pretrained_cfg": about,
    }
    opened = LayoutInput(file=MemoryFile(model.state_dict()), config_json=beside)
    return read_layout(detect_layout(opened), opened).config


@pytest.mark.parametrize("row", NOW, ids=lambda it: it.name)
def test_parameters_and_compute_counted_again(row):
    config = config_of(row)
    with meta_init():
        model = vitral.models.build_model(config)
    count = vitral.models.count_parameters(model) / 1e6
    assert f"{count:.2f}" == f"{row.params_m:.2f}"
    if row.model:
        plain = vitral.models.get_config(row.model, {"num_classes": row.classes})
        assert plain.embed_dim == config.embed_dim if row.patch else True
    run = vitral.models.replace_config(config, {"image_size": row.run_size})
    # Convolutions and norms are counted in two ways (BiT, hybrids).
    within = 0.04 if row.name.startswith(("bit", "r_", "r26", "r50")) else 0.01
    macs = run.macs() / 1e9
    assert abs(macs - row.gmacs_run) <= max(within * row.gmacs_run, 0.005), macs
    if row.patch and row.gmacs_size % row.patch == 0:
        full = vitral.models.replace_config(config, {"image_size": row.gmacs_size})
        published = full.macs() / 1e9
        assert abs(published - row.gmacs) <= max(within * row.gmacs, 0.005), published


def test_pooling_is_the_records_where_the_model_has_one():
    for row in NOW:
        pooling = getattr(config_of(row), "global_pool", row.pooling)
        # timm pools the mean of DINOv3's patches: the record comes before its files.
        wanted = "avg" if row.name.startswith("dinov3") else row.pooling
        assert pooling == wanted, row.name


def test_unknown_words_are_no_record():
    assert find_record("photos") is None
    assert find_record("runs/photos") is None
    assert find_record("timm/vit_small_patch14_dinov2.lvd142m@main") is None
    with pytest.raises(WeightsError, match="may mean several weights"):
        find_record("timm/vit_base_patch16_224")
