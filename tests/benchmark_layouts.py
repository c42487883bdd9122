"""Tiny files laid out as each publisher lays out its own, each picture showing its
label: red is 9 times the class that the benchmark should give it."""

import csv
import gzip
import json
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import scipy.io
import torch
from PIL import Image

SIZE = (9, 7)
STEP = 9


def picture(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", SIZE, (STEP * label, 40, 200))
    kind = {".tif": "TIFF", ".png": "PNG"}.get(path.suffix, "JPEG")
    image.save(path, kind, **({"quality": 98} if kind == "JPEG" else {}))


def caltech101(root: Path) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate(("accordion", "BACKGROUND_Google", "crab")):
        for number in range(31 + 2 * label):
            picture(folder / name / f"image_{number + 1:04d}.jpg", label)


def cifar100(root: Path, train: int = 30, test: int = 7) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, number in (("train", train), ("test", test)):
        labels = [index % 20 for index in range(number)]
        data = np.zeros((number, 3072), np.uint8)
        data[:, :1024] = STEP * np.array(labels)[:, None]
        (folder / name).write_bytes(pickle.dumps({"data": data, "fine_labels": labels}))
    names = [f"class {number}" for number in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))


def dtd(root: Path) -> None:
    labels = root / "dtd" / "dtd" / "labels"
    labels.mkdir(parents=True)
    for split, number in (("train", 12), ("val", 11), ("test", 6)):
        lines = []
        for index in range(number):
            label = index % 2
            word = ("banded", "cracked")[label]
            lines.append(f"{word}/{word}_{split}{index:04d}.jpg")
            picture(labels.parent / "images" / lines[-1], label)
        (labels / f"{split}1.txt").write_text("\n".join(lines) + "\n")


def flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    labels = [1 + number % 13 for number in range(32)]
    for number, label in enumerate(labels, start=1):
        picture(folder / "jpg" / f"image_{number:05d}.jpg", label - 1)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [labels]})
    numbers = np.arange(1, 33)
    ids = {"tstid": [numbers[:14]], "valid": [numbers[14:23]], "trnid": [numbers[23:]]}
    scipy.io.savemat(folder / "setid.mat", ids)


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split, first, number in (("trainval", 1, 25), ("test", 100, 8)):
        lines = []
        for index in range(first, first + number):
            label = index % 3
            name = f"{('Abyssinian', 'beagle', 'Egyptian_Mau')[label]}_{index}"
            lines.append(f"{name} {label + 1} 1 1")
            picture(folder / "images" / f"{name}.jpg", label)
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines))


def sun397(root: Path) -> None:
    folder = root / "SUN397"
    names = ("/a/abbey", "/b/bakery/shop")
    for index in range(40):
        picture(folder / f"{names[index % 2][1:]}/sun_{index:03d}.jpg", index % 2)
    (folder / "ClassName.txt").write_text("\n".join(names) + "\n")


def svhn(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, number in (("train", 33), ("test", 9)):
        labels = np.arange(number) % 10
        pixels = np.zeros((32, 32, 3, number), np.uint8)
        pixels[:, :, 0] = STEP * labels
        published = np.where(labels == 0, 10, labels)[:, None]
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": published})


def camelyon(root: Path) -> None:
    folder = root / "pcam"
    folder.mkdir(parents=True)
    for split, number in (("train", 10), ("valid", 8), ("test", 5)):
        labels = np.arange(number) % 2
        pixels = np.zeros((number, 7, 9, 3), np.uint8)
        pixels[..., 0] = STEP * labels[:, None, None]
        name = f"camelyonpatch_level_2_split_{split}"
        with h5py.File(folder / f"{name}_x.h5", "w") as file:
            file["x"] = pixels
        with h5py.File(folder / f"{name}_y.h5", "w") as file:
            file["y"] = labels.reshape(-1, 1, 1, 1)


def class_folders(folder: Path, names: tuple[str, ...], each: int, end: str) -> None:
    for label, name in enumerate(names):
        for number in range(each):
            picture(folder / name / f"{name}_{number:03d}{end}", label)


def eurosat(root: Path) -> None:
    class_folders(root / "eurosat" / "2750", ("Forest", "River"), 20, ".jpg")


def resisc45(root: Path) -> None:
    folder = root / "resisc45" / "NWPU-RESISC45"
    class_folders(folder, ("airplane", "airport", "bridge"), 10, ".jpg")


def retinopathy(root: Path) -> None:
    folder = root / "diabetic_retinopathy"
    usage = ["Private", "Public", "Private", "Public", "Public"]
    for place, number in (("train", 14), ("test", 15)):
        rows = []
        for index in range(number):
            name = f"{index // 2}_{('left', 'right')[index % 2]}"
            rows.append({"image": name, "level": index % 5, "Usage": usage[index % 5]})
            picture(folder / place / f"{name}.jpeg", index % 5)
        columns = ["image", "level"] + ["Usage"] * (place == "test")
        file = "trainLabels.csv" if place == "train" else "retinopathy_solution.csv"
        with (folder / file).open("w", newline="") as target:
            writer = csv.DictWriter(target, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def clevr(root: Path, labels: str = "count") -> None:
    """Scenes whose number of objects and nearest distance are known."""
    folder = root / "clevr" / "CLEVR_v1.0"
    distances = (7.5, 8.0, 8.25, 8.75, 9.25, 9.5, 9.75, 10.5)
    classes = (0, 0, 1, 2, 3, 3, 4, 5)
    (folder / "scenes").mkdir(parents=True)
    for split, number in (("train", 30), ("val", 9)):
        scenes = []
        for index in range(number):
            count, distance = 3 + index % 8, distances[index % 8]
            name = f"CLEVR_{split}_{index:06d}.png"
            depths = [distance + 0.5 * thing for thing in range(count)][::-1]
            things = [{"pixel_coords": [5, 6, depth]} for depth in depths]
            scenes.append({"image_filename": name, "objects": things})
            label = count - 3 if labels == "count" else classes[index % 8]
            picture(folder / "images" / split / name, label)
        # Not in the order of the files.
        content = json.dumps({"scenes": scenes[::-1]})
        (folder / "scenes" / f"CLEVR_{split}_scenes.json").write_text(content)


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def record(features: dict[str, bytes | int], packed: bool = True) -> bytes:
    """A TFRecord of a tf.train.Example."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        else:
            number = varint(value)
            feature = field(3, field(1, number) if packed else b"\x08" + number)
        entries += field(1, field(1, name.encode()) + field(2, feature))
    content = field(1, entries)
    return struct.pack("<QI", len(content), 1) + content + struct.pack("<I", 2)


def dmlab(root: Path) -> None:
    folder = root / "dmlab"
    folder.mkdir(parents=True)
    for split, number in (("train", 11), ("validation", 7), ("test", 6)):
        content = b""
        for index in range(number):
            picture(folder / "one.png", index % 6)
            features = {
                "filename": f"{split} {index}".encode(),
                "image": (folder / "one.png").read_bytes(),
                "label": index % 6,
            }
            content += record(features, packed=index % 2 == 0)
        (folder / f"dmlab-{split}.tfrecord").write_bytes(content)
        (folder / "one.png").unlink()


def dsprites(root: Path, number: int = 640) -> None:
    """Every picture has one white pixel, in the row of its index."""
    folder = root / "dsprites"
    folder.mkdir(parents=True)
    index = np.arange(number)
    images = np.zeros((number, 64, 48), np.uint8)
    images[index, index % 64, index // 64] = 1
    latents = np.zeros((number, 6), np.int64)
    latents[:, 3], latents[:, 4], latents[:, 5] = index % 40, index % 32, 31
    file = folder / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    # As published, with an array that only unpickling could read.
    about = np.array({"title": "dSprites"}, dtype=object)
    np.savez_compressed(file, imgs=images, latents_classes=latents, metadata=about)
    with zipfile.ZipFile(file) as archive:
        assert "imgs.npy" in archive.namelist()


def kitti(root: Path) -> None:
    """Twenty videos of two pictures each."""
    folder = root / "Kitti" / "raw"
    nearest = (4.5, 8.0, 8.01, 20.5, None)
    classes = (0, 0, 1, 2, 3)
    (folder / "training" / "label_2").mkdir(parents=True)
    (folder / "mapping").mkdir()
    for number in range(40):
        picture(folder / f"training/image_2/{number:06d}.png", classes[number % 5])
        rest = "0.00 0 0 0 0 0 0 1 1 1 0.5 1.5"
        lines = [f"Pedestrian {rest} 1.25 0.1", f"DontCare {rest} -1000 -10"]
        distance = nearest[number % 5]
        if distance is not None:
            lines += [f"Van {rest} 90.5 0.1", f"Car {rest} {distance} 0.1"]
        file = folder / f"training/label_2/{number:06d}.txt"
        file.write_text("\n".join(lines) + "\n")
    order = [str(1 + (7 * number) % 40) for number in range(40)]
    (folder / "mapping" / "train_rand.txt").write_text(",".join(order) + "\n")
    lines = [f"2011_09_26 drive_{line // 2:04d}_sync {line:010d}" for line in range(40)]
    (folder / "mapping" / "train_mapping.txt").write_text("\n".join(lines) + "\n")


def matrix(values: np.ndarray) -> bytes:
    """NORB's binary format; sizes are padded to three."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[values.dtype.name]
    sizes = (*values.shape, 1, 1)[: max(3, values.ndim)]
    head = struct.pack(f"<ii{len(sizes)}i", magic, values.ndim, *sizes)
    return head + values.tobytes()


def norb(root: Path, what: str = "azimuth", packed: bool = False) -> None:
    folder = root / "smallnorb"
    folder.mkdir(parents=True)
    for name, number in (
        ("smallnorb-5x46789x9x18x6x2x96x96-training", 18),
        ("smallnorb-5x01235x9x18x6x2x96x96-testing", 36),
    ):
        index = np.arange(number)
        info = np.stack([index * 0, index % 9, index % 18 * 2, index * 0 + 5], 1)
        labels = index % 18 if what == "azimuth" else index % 9
        pairs = np.full((number, 2, 7, 9), 255, np.uint8)
        pairs[:, 0] = STEP * labels[:, None, None]
        for kind, values in (("dat", pairs), ("info", info.astype(np.int32))):
            path, content = folder / f"{name}-{kind}.mat", matrix(values)
            if packed:
                path, content = (
                    path.with_name(f"{path.name}.gz"),
                    gzip.compress(content),
                )
            path.write_bytes(content)


def birds(root: Path) -> None:
    folder = root / "CUB_200_2011"
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    images, labels, train = [], [], []
    for number in range(1, 24):
        label = number % 2
        path = f"{names[label]}/bird_{number:04d}.jpg"
        picture(folder / "images" / path, label)
        images.append(f"{number} {path}")
        labels.append(f"{number} {label + 1}")
        train.append(f"{number} {int(number % 3 != 0)}")
    for file, lines in (
        ("images", images),
        ("image_class_labels", labels),
        ("train_test_split", train),
        ("classes", [f"{number} {name}" for number, name in enumerate(names, 1)]),
    ):
        (folder / f"{file}.txt").write_text("\n".join(lines) + "\n")


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array(["Acura", "Audi", "BMW"], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    for split, number, file in (
        ("train", 10, "devkit/cars_train_annos.mat"),
        ("test", 8, "cars_test_annos_withlabels.mat"),
    ):
        rows = np.zeros(number, [("fname", object), ("class", object)])
        for index in range(number):
            rows[index] = (f"{index + 1:05d}.jpg", 1 + index % 3)
            name = f"{index + 1:05d}.jpg"
            picture(folder / f"cars_{split}" / name, index % 3)
        scipy.io.savemat(folder / file, {"annotations": rows})


def col_hist(root: Path) -> None:
    folder = root / "Kather_texture_2016_image_tiles_5000"
    class_folders(folder, ("01_TUMOR", "02_STROMA"), 15, ".tif")


def uc_merced(root: Path) -> None:
    folder = root / "UCMerced_LandUse" / "Images"
    class_folders(folder, ("agricultural", "airplane", "beach"), 10, ".tif")


def imagenet(root: Path, val: int = 12) -> list[int]:
    """Two classes whose order by WordNet id is not that of their names; the labels of
    the validation images by their number."""
    folder = root / "imagenet"
    wnids = {"n01440764": ("tench", "Tinca tinca"), "n02012849": ("crane",)}
    # Descending, to see that the order is made and not met.
    ids = sorted(wnids, reverse=True)
    labels = [number % 2 for number in range(val)]
    for number, label in enumerate(labels, start=1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        picture(folder / "val" / sorted(ids)[label] / name, label)
    for label, wnid in enumerate(sorted(ids)):
        for number in range(4):
            picture(folder / "train" / wnid / f"{wnid}_{number}.JPEG", label)
    meta = {wnid: wnids[wnid] for wnid in ids}
    torch.save((meta, [sorted(ids)[label] for label in labels]), folder / "meta.bin")
    return labels
