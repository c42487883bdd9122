"""Masks, boxes and pictures move with the pixels; where the model's input lies."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from helpers import TINY
from vitral import data
from vitral.data import (
    Augment,
    AugmentConfig,
    EvalTransform,
    Loader,
    Preprocess,
    Sampling,
    drop_vanished,
    evaluation_transform,
    training_transform,
)
from vitral.data.images import CropBox, Geometry, Size
from vitral.data.video import Clip
from vitral.data.video.clip import FrameSource
from vitral.errors import ConfigError, ImageError
from vitral.models import ViT, ViTConfig
from vitral.workflows.train.frozen_cache import cache_frozen_outputs

HEIGHT, WIDTH = 90, 132
INPUT = (48, 64)
COLOURS = torch.tensor(
    [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]
)
RECTANGLE = (50.0, 30.0, 92.0, 58.0)
"""Left, top, right and bottom of the things of class 1."""
GEOMETRIC = [
    {},
    {"dihedral": True},
    {"flip": 1.0},
    {"crop": "inception", "crop_area": (0.2, 1.0), "flip": 0.5},
    {"crop": "window", "crop_area": (0.6, 1.0), "flip": 0.5},
    {"crop": "inception", "dihedral": True},
    {"shift": 0.2, "flip": 0.5},
    {"rotate": 60.0, "flip": 0.5},
    {"zoom": 0.3, "shift": 0.1},
    {"crop": "inception", "dihedral": True, "shift": 0.1, "rotate": 20.0},
]
PREPROCESSES = [
    Preprocess(image_size=INPUT, mean=(0.0,) * 3, std=(1.0,) * 3, **changes)
    for changes in (
        {},
        {"resize": "crop", "crop_fraction": 0.875},
        {"antialias": True, "interpolation": "bicubic"},
        {"antialias": True, "resize": "crop"},
    )
]


def label_map() -> torch.Tensor:
    """A rectangle, a disc, two corners, and nothing."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[30:58, 50:92] = 1
    labels[(rows - 68) ** 2 + (columns - 25) ** 2 < 15**2] = 2
    labels[:26, :40] = 3
    labels[66:, 100:] = 4
    return torch.from_numpy(labels)


def picture(labels: torch.Tensor) -> Image.Image:
    return Image.fromarray(COLOURS[labels.long()].to(torch.uint8).numpy())


def nearest_colour(pixels: torch.Tensor) -> torch.Tensor:
    """The class of each pixel of an image of 0 to 1."""
    gaps = pixels.permute(1, 2, 0)[..., None, :] - COLOURS / 255
    return gaps.square().sum(-1).argmin(-1)


def interior(labels: torch.Tensor) -> torch.Tensor:
    """Pixels whose neighbours up to two steps away are of the same class."""
    wide = torch.nn.functional.pad(labels[None, None].float(), (2,) * 4, "replicate")
    pool = torch.nn.functional.max_pool2d
    return (pool(wide, 5, 1) == -pool(-wide, 5, 1))[0, 0]


def bounds(there: torch.Tensor) -> list[float]:
    """Left, top, right, bottom of the true pixels."""
    rows, columns = there.any(1).nonzero(), there.any(0).nonzero()
    return [
        float(columns.min()),
        float(rows.min()),
        float(columns.max() + 1),
        float(rows.max() + 1),
    ]


def boxes_of(*boxes: Sequence[float]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(
        torch.tensor(boxes).reshape(-1, 4),
        format="XYXY",
        canvas_size=(HEIGHT, WIDTH),
    )


@pytest.mark.parametrize("preprocess", PREPROCESSES, ids=lambda p: p.hash)
@pytest.mark.parametrize("changes", GEOMETRIC, ids=str)
def test_the_mask_is_that_of_the_moved_picture(changes, preprocess):
    labels = label_map()
    mask = tv_tensors.Mask(labels)
    config = AugmentConfig(**{"flip": 0.0, **changes})
    transform = Augment(config=config, preprocess=preprocess, seed=3)
    seen = set()
    for number in range(12):
        key = picture(labels), f"{number}.png", number
        moved = transform.geometry(*key).apply(mask)
        assert isinstance(moved, tv_tensors.Mask)
        assert moved.dtype == torch.uint8
        assert moved.shape == INPUT
        seen.add(moved.numpy().tobytes())
        expected = nearest_colour(transform(*key))
        inside = interior(expected)
        assert inside.float().mean() > 0.5
        agreement = (moved == expected)[inside].float().mean()
        assert agreement > 0.99, (number, float(agreement))
    assert len(seen) == 1 if changes in ({}, {"flip": 1.0}) else len(seen) > 1


@pytest.mark.parametrize("preprocess", PREPROCESSES, ids=lambda p: p.hash)
@pytest.mark.parametrize("changes", GEOMETRIC, ids=str)
def test_boxes_are_the_bounds_of_the_moved_mask(changes, preprocess):
    labels = label_map()
    config = AugmentConfig(**{"flip": 0.0, **changes})
    transform = Augment(config=config, preprocess=preprocess, seed=3)
    checked = 0
    for number in range(30):
        geometry = transform.geometry(picture(labels), f"{number}.png", number)
        found = geometry.apply(boxes_of(RECTANGLE))
        assert found.canvas_size == INPUT
        moved = geometry.apply(tv_tensors.Mask(labels)) == 1
        if not moved.any():
            assert drop_vanished(found)[0].shape == (0, 4)
            continue
        expected = bounds(moved)
        left, top, right, bottom = expected
        inside = left > 0 and top > 0 and right < INPUT[1] and bottom < INPUT[0]
        if inside or not config.warps:  # no edge is repeated
            assert found[0].tolist() == pytest.approx(expected, abs=1.6)
            checked += 1
    assert checked > 2


@pytest.mark.parametrize("preprocess", PREPROCESSES[:2], ids=lambda p: p.hash)
def test_an_evaluation_has_its_geometry(preprocess):
    labels = label_map()
    transform = EvalTransform(preprocess=preprocess)
    key = picture(labels), "a.png", 0
    geometry = transform.geometry(*key)
    expected = nearest_colour(transform(*key))
    moved = geometry.apply(tv_tensors.Mask(labels))
    assert (moved == expected)[interior(expected)].all()
    found = geometry.apply(boxes_of(RECTANGLE))
    assert found[0].tolist() == pytest.approx(bounds(moved == 1), abs=1)


def test_pictures_and_frames_as_targets():
    """Depth, or a second picture: resized as the picture is, frame by frame alike."""
    preprocess = Preprocess(
        image_size=INPUT, antialias=True, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    config = AugmentConfig(crop="inception", shift=0.2, rotate=30.0, dihedral=True)
    transform = Augment(config=config, preprocess=preprocess, seed=1)
    shown = picture(label_map())
    values = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
    for number in range(8):
        geometry = transform.geometry(shown, f"{number}", 0)
        found = geometry.apply(
            {"depth": tv_tensors.Image(values), "film": tv_tensors.Video(values[None])}
        )
        expected = transform(shown, f"{number}", 0) * 255
        assert isinstance(found["depth"], tv_tensors.Image)
        # Both round to 8 bits, once or twice, and sums may differ by one.
        assert (found["depth"].float() - expected).abs().max() <= 2
        assert isinstance(found["film"], tv_tensors.Video)
        assert torch.equal(found["film"][0], found["depth"])


def test_what_is_no_picture_stays_and_nothing_is_lost():
    geometry = Preprocess(image_size=INPUT).geometry(Size(HEIGHT, WIDTH))
    masks = [tv_tensors.Mask(label_map()), tv_tensors.Mask(label_map() > 2)]
    words, boxes, found = geometry.apply(("two things", boxes_of(), masks))
    assert words == "two things"
    assert boxes.shape == (0, 4)
    assert [mask.dtype for mask in found] == [torch.uint8, torch.bool]
    assert torch.equal(found[1], found[0] > 2)
    large = tv_tensors.Mask(label_map().long() + 70_000)
    assert torch.equal(geometry.apply(large), found[0].long() + 70_000)


class Film(FrameSource):
    """Equal pictures."""

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        return [picture(label_map()) for _ in indices]


def clip() -> Clip:
    return Clip(times=np.arange(9) / 5.0, source=Film())


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_all_frames_of_a_clip_move_alike(kind):
    preprocess = replace(PREPROCESSES[0], sampling=Sampling(frames=3))
    config = AugmentConfig(crop="inception", rotate=20.0, shift=0.1)
    transform: Any = (
        training_transform(config, preprocess, 2)
        if kind == "training"
        else evaluation_transform(preprocess)
    )
    mask = tv_tensors.Mask(label_map().expand(3, -1, -1))
    for number in range(6):
        frames = transform(clip(), f"{number}", 0)
        moved = transform.geometry(clip(), f"{number}", 0).apply(mask)
        assert moved.shape == (3, *INPUT)
        for frame, own in zip(frames, moved, strict=True):
            expected = nearest_colour(frame)
            inside = interior(expected)
            assert (own == expected)[inside].float().mean() > 0.99


def test_a_target_follows_one_crop_of_a_clip():
    preprocess = replace(
        PREPROCESSES[1], sampling=Sampling(frames=3, crops=3), crop_fraction=1.0
    )
    transform: Any = evaluation_transform(preprocess)
    with pytest.raises(ConfigError, match=r"`Sampling\.crops` is 3, and a target that"):
        transform.geometry(clip(), "a", 0)


@pytest.mark.parametrize("preprocess", PREPROCESSES[:2], ids=lambda p: p.hash)
@pytest.mark.parametrize("changes", GEOMETRIC[:6], ids=str)
def test_where_the_input_lies_in_the_original(changes, preprocess):
    """Of a picture whose red is the place from the left, and green from the top."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([columns, rows, rows * 0], -1).astype(np.uint8)
    config = AugmentConfig(**{"flip": 0.0, **changes})
    transform = Augment(config=config, preprocess=preprocess, seed=3)
    for number in range(10):
        key = Image.fromarray(pixels), f"{number}.png", number
        seen = transform(*key) * 255
        left, top, right, bottom = transform.geometry(*key).visible_box()
        # The edge of a pixel is up to one and a half input pixels from its value.
        assert float(seen[0].min()) == pytest.approx(left * WIDTH, abs=2.5)
        assert float(seen[0].max()) == pytest.approx(right * WIDTH - 1, abs=2.5)
        assert float(seen[1].min()) == pytest.approx(top * HEIGHT, abs=2.5)
        assert float(seen[1].max()) == pytest.approx(bottom * HEIGHT - 1, abs=2.5)


def test_the_visible_box_by_hand():
    # 100 x 200 to 54 x 108, of which the middle 48 x 80.
    preprocess = Preprocess(image_size=(48, 80), resize="crop", crop_fraction=0.875)
    box = preprocess.geometry(Size(100, 200)).visible_box()
    assert box == (14 / 108, 3 / 54, 14 / 108 + 80 / 108, 3 / 54 + 48 / 54)
    # A quarter turn counter-clockwise: the right half on the right is the top half.
    turned = Geometry(
        source=Size(100, 200),
        symmetry=1,
        box=CropBox(0, 0, 100, 100),
        resized=Size(10, 10),
        window=CropBox(0, 0, 10, 10),
    )
    assert turned.visible_box() == (0.5, 0.0, 1.0, 1.0)


def test_boxes_that_vanish_go_with_their_entries():
    # The middle 80 x 80 of 90 x 132, at its own size.
    preprocess = Preprocess(image_size=(80, 80), resize="crop")
    geometry = replace(
        preprocess.geometry(Size(HEIGHT, WIDTH)),
        resized=Size(HEIGHT, WIDTH),
        window=CropBox(5, 26, 85, 106),
    )
    given = boxes_of(
        (0, 0, 26.5, 90), (30, 10, 60, 50), (20, 0, 200, 9), (50, 0, 60, 4)
    )
    moved = geometry.apply(given)
    names, classes = ["out", "in", "cut", "above"], torch.tensor([1, 2, 3, 4])
    boxes, kept, labels = drop_vanished(moved, names, classes)
    assert isinstance(boxes, tv_tensors.BoundingBoxes)
    assert boxes.tolist() == [[4, 5, 34, 45], [0, 0, 80, 4]]
    assert boxes.canvas_size == (80, 80)
    assert kept == ["in", "cut"]
    assert labels.tolist() == [2, 3]
    assert drop_vanished(moved, names, smallest=0.25)[1] == ["out", "in", "cut"]


@pytest.mark.parametrize("name", ["XYWH", "CXCYWH"])
def test_boxes_of_other_formats_move_alike(name):
    from torchvision.transforms.v2.functional import convert_bounding_box_format

    config = AugmentConfig(crop="inception", dihedral=True, shift=0.1, rotate=10.0)
    transform = Augment(config=config, preprocess=PREPROCESSES[0])
    given = boxes_of(RECTANGLE, (3, 4, 50, 60))
    for number in range(8):
        geometry = transform.geometry(picture(label_map()), f"{number}", number)
        other = geometry.apply(convert_bounding_box_format(given, new_format=name))
        assert other.format.value == name
        back = convert_bounding_box_format(other, new_format="XYXY")
        torch.testing.assert_close(
            torch.Tensor(back), torch.Tensor(geometry.apply(given)), atol=1e-3, rtol=0
        )


def test_what_does_not_fit_is_refused():
    geometry = Preprocess(image_size=INPUT).geometry(Size(HEIGHT, WIDTH))
    with pytest.raises(
        ImageError, match=r"its target is 90 x 90 pixels .* and its picture 90 x 132"
    ):
        geometry.apply(tv_tensors.Mask(label_map()[:, :90]))
    turned = tv_tensors.BoundingBoxes(
        torch.zeros(1, 5), format="XYWHR", canvas_size=(HEIGHT, WIDTH)
    )
    with pytest.raises(ConfigError, match="Boxes of the format XYWHR do not move"):
        geometry.apply(turned)


@dataclass(frozen=True)
class Masks(data.Targets):
    """The mask beside each picture; counts what it reads."""

    root: Path
    moves = True

    def read(self, example: data.Example) -> Any:
        with (self.root / "reads.txt").open("a") as log:
            log.write(f"{example.id}\n")
        name = self.root / "masks" / Path(example.id).name
        return tv_tensors.Mask(torch.from_numpy(np.array(Image.open(name))))

    def stack(
        self,
        names: tuple[str, ...],
        examples: Sequence[data.Example],
        values: Sequence[Any],
    ) -> torch.Tensor:
        return torch.stack([torch.as_tensor(value) for value in values])


@pytest.fixture
def photos(tmp_path):
    """Six pictures of the labels, mirrored or not, in a folder with their masks."""
    (tmp_path / "masks").mkdir()
    for number in range(6):
        labels = label_map() if number % 2 else label_map().flip(-1)
        folder = tmp_path / "photos" / "train" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture(labels).save(folder / f"{number}.png")
        Image.fromarray(labels.numpy()).save(tmp_path / "masks" / f"{number}.png")
    dataset = data.open(tmp_path / "photos")
    return replace(dataset, targets=Masks(tmp_path))


def loader_of(dataset: data.Dataset, transform: Any, **changes: Any) -> Loader:
    return Loader(
        **{
            "dataset": dataset,
            "examples": dataset.examples,
            "transform": transform,
            "batch_size": 4,
            "shuffle": True,
            **changes,
        }
    )


@pytest.mark.parametrize("preprocess", PREPROCESSES[1:3], ids=lambda p: p.hash)
@pytest.mark.parametrize("workers", [0, 1])
def test_each_variation_of_a_batch_moves_its_target(photos, workers, preprocess):
    config = AugmentConfig(crop="inception", flip=0.5, crop_area=(0.3, 1.0))
    transform = training_transform(config, preprocess, 4)
    loader = loader_of(photos, transform, repeats=2, workers=workers)
    batches = list(loader.epoch(1))
    assert [len(batch.id) for batch in batches] == [4, 2]
    for batch in batches:
        for image, mask in zip(batch.image, batch.target, strict=True):
            expected = nearest_colour(image)
            inside = interior(expected)
            assert (mask == expected)[inside].float().mean() > 0.99
        assert not torch.equal(batch.target[0], batch.target[-1])
    reads = (photos.targets.root / "reads.txt").read_text().split("\n")[:-1]
    assert len(reads) == 3  # once for two variations
    assert all((batch.id.count(reads[0]) in (0, 2)) for batch in batches)


def test_a_mask_of_another_size_drops_the_example(photos):
    wrong = photos.targets.root / "masks" / "3.png"
    Image.fromarray(label_map()[:50].numpy()).save(wrong)
    loader = loader_of(photos, EvalTransform(preprocess=PREPROCESSES[0]))
    assert sum(len(batch.id) for batch in loader.epoch(0)) == 5
    ((name, reason),) = loader.failures
    assert Path(name).name == "3.png"
    assert reason.startswith("its target is 50 x 132 pixels")


def plain(image: Image.Image, example_id: str, draw: int) -> torch.Tensor:
    return PREPROCESSES[0](image)


def test_a_transform_must_say_how_it_moves_pixels(photos):
    with pytest.raises(
        ConfigError, match="transform plain does not say how: give it a method `geom"
    ):
        next(loader_of(photos, plain).epoch(0))


def test_frozen_outputs_of_views_do_not_fit_targets_that_move(photos, tmp_path):
    loader = loader_of(photos, EvalTransform(preprocess=PREPROCESSES[0]))
    with pytest.raises(ConfigError, match="targets of this data set move with them: l"):
        cache_frozen_outputs(
            loader,
            ViT(ViTConfig(**TINY)),
            tmp_path / "cache",
            key="k",
            views=1,
            device=torch.device("cpu"),
            bf16=False,
        )


def test_labels_need_no_torchvision():
    code = (
        "import sys; from PIL import Image; from vitral.data import *;"
        "p = Preprocess(image_size=(16, 24)); image = Image.new('RGB', (40, 30));"
        "config = AugmentConfig(crop='inception', shift=0.1);"
        "vary = Augment(config=config, preprocess=p);"
        "vary(image, 'a', 0); vary.geometry(image, 'a', 0).visible_box();"
        "sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
