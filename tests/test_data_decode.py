"""vitral.data.images.decode: what each kind of file becomes, pixel by pixel."""

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from vitral.data.images.decode import decode
from vitral.errors import ImageError

HEIGHT, WIDTH = 6, 10


def colour_array() -> np.ndarray:
    values = np.random.Generator(np.random.Philox(key=1)).integers(
        0, 256, (HEIGHT, WIDTH, 3)
    )
    return values.astype(np.uint8)


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(content: bytes | Path) -> np.ndarray:
    return np.asarray(decode(content).image)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_return_the_pixels(tmp_path, file_format):
    array = colour_array()
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(Image.fromarray(array), file_format, **options)
    path = tmp_path / "picture"
    path.write_bytes(content)
    decoded = decode(path)
    assert decoded.image.mode == "RGB"
    assert decoded.notes == ()
    np.testing.assert_array_equal(np.asarray(decoded.image), array)
    assert path.read_bytes() == content


def test_one_bit_and_grey_are_repeated_in_three_channels():
    bits = Image.fromarray(colour_array()[..., 0]).convert("1", dither=0)
    expected = np.asarray(bits).astype(np.uint8)[..., None] * 255
    np.testing.assert_array_equal(pixels(encode(bits, "PNG")), expected.repeat(3, 2))
    grey = colour_array()[..., 0]
    content = encode(Image.fromarray(grey), "PNG")
    np.testing.assert_array_equal(pixels(content), grey[..., None].repeat(3, 2))


def test_one_pixel():
    content = encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")
    assert pixels(content).tolist() == [[[1, 2, 3]]]


def test_16_bit_ramp_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    ramp = ramp.astype(np.uint16)
    for file_format in ("PNG", "TIFF"):
        decoded = decode(encode(Image.fromarray(ramp), file_format))
        assert decoded.notes == ("16-bit grey scaled to 8 bits for a picture",)
        values = np.asarray(decoded.image)[..., 0]
        assert np.abs(values / 255 - ramp / 65535).max() <= 0.5 / 255 + 1e-9
        # Pillow's own conversion is the control: nearly everything white.
        clipped = np.asarray(Image.fromarray(ramp).convert("RGB"))
        assert (clipped == 255).mean() > 0.9


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        ([[0.0, 0.5, 1.0]], [0, 128, 255], "float grey scaled from 0..1 for a picture"),
        (
            [[-10.0, 0.0, 40.0]],
            [0, 51, 255],
            "float grey scaled from its own minimum..maximum for a picture",
        ),
        ([[7.0, 7.0, 7.0]], [0, 0, 0], "float grey scaled from its own minimum"),
    ],
)
def test_float_images(values, expected, note):
    image = Image.fromarray(np.array(values, dtype=np.float32))
    decoded = decode(encode(image, "TIFF"))
    assert decoded.notes[0].startswith(note)
    assert np.asarray(decoded.image)[0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        ([[0, 257, 65535]], [0, 1, 255], "integer grey scaled from 0..65535"),
        ([[-100, 0, 300]], [0, 64, 255], "integer grey scaled from its own"),
        ([[0, 100000, 200000]], [0, 128, 255], "integer grey scaled from its own"),
    ],
)
def test_integer_images(values, expected, note):
    image = Image.fromarray(np.array(values, dtype=np.int32))
    decoded = decode(encode(image, "TIFF"))
    assert decoded.notes[0].startswith(note)
    assert np.asarray(decoded.image)[0, :, 2].tolist() == expected


def test_float_image_with_nan_is_refused():
    image = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
    with pytest.raises(ImageError, match="holds values that are not finite"):
        decode(encode(image, "TIFF"))


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(mode):
    colour = colour_array()
    alpha = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    if mode == "LA":
        colour = colour[..., :1].repeat(3, 2)
    image = Image.fromarray(np.dstack([colour, alpha]), "RGBA").convert(mode)
    decoded = decode(encode(image, "PNG"))
    assert decoded.notes == ("transparency composited on white",)
    expected = on_white(np.asarray(image.convert("RGB")), alpha)
    assert np.abs(np.asarray(decoded.image) - expected).max() <= 1


def test_opaque_alpha_needs_no_note():
    colour = colour_array()
    image = Image.fromarray(
        np.dstack([colour, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    )
    decoded = decode(encode(image, "PNG"))
    assert decoded.notes == ()
    np.testing.assert_array_equal(np.asarray(decoded.image), colour)


def palette_image() -> Image.Image:
    image = Image.fromarray((np.arange(60) % 3).reshape(6, 10).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 200])
    return image


def test_palette_with_transparency_by_index_and_by_bytes():
    table = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 200]])
    indices = (np.arange(60) % 3).reshape(6, 10)
    np.testing.assert_array_equal(
        pixels(encode(palette_image(), "PNG")), table[indices]
    )
    by_index = decode(encode(palette_image(), "PNG", transparency=1))
    table[1] = 255
    np.testing.assert_array_equal(np.asarray(by_index.image), table[indices])
    assert by_index.notes == ("transparency composited on white",)
    by_bytes = decode(encode(palette_image(), "PNG", transparency=b"\xff\x00\x80"))
    half = 200 * 128 / 255 + 255 * (127 / 255)
    table[2] = [round(255 * 127 / 255), 127, round(half)]
    assert np.abs(np.asarray(by_bytes.image) - table[indices]).max() <= 1


def test_colour_key_of_a_true_colour_png_is_white():
    array = colour_array()
    array[0, 0] = (9, 8, 7)
    content = encode(Image.fromarray(array), "PNG", transparency=(9, 8, 7))
    assert pixels(content)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_jpeg_and_tiff():
    # One flat colour, so that JPEG loses nothing worth mentioning.
    ink = (20, 120, 200, 40)
    image = Image.new("CMYK", (WIDTH, HEIGHT), ink)
    expected = [(255 - value) * (255 - 40) / 255 for value in ink[:3]]
    for file_format in ("TIFF", "JPEG"):
        decoded = decode(encode(image, file_format))
        assert decoded.notes == ("CMYK converted to RGB without its colour profile",)
        assert np.abs(np.asarray(decoded.image)[3, 4] - expected).max() <= 3


def test_adobe_marker_means_inverted_ink():
    content = encode(Image.new("CMYK", (16, 8), (0, 0, 0, 0)), "JPEG")
    assert b"Adobe" in content
    assert pixels(content).min() >= 253


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_eight_orientations(orientation, file_format):
    image = Image.fromarray(colour_array())
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(image, file_format, exif=exif)
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    decoded = decode(content)
    np.testing.assert_array_equal(np.asarray(decoded.image), expected)
    assert decoded.image.size == ((WIDTH, HEIGHT) if orientation < 5 else (6, 10))
    rotated = ("EXIF orientation applied",) if orientation > 1 else ()
    assert decoded.notes == rotated


def test_orientation_6_by_hand():
    # Orientation 6: the camera was turned, the picture is shown rotated clockwise.
    array = colour_array()
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(Image.fromarray(array), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(content), np.rot90(array, k=-1))


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_several(file_format):
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in colours]
    content = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    decoded = decode(content)
    assert decoded.notes == ("first of several frames or pages used",)
    assert np.abs(np.asarray(decoded.image)[2, 3] - np.array(colours[0])).max() <= 6


def test_zero_bytes_and_text_and_html(tmp_path):
    for name, content in (("a.jpg", b""), ("b.jpg", b"hello"), ("c.png", b"<html>")):
        path = tmp_path / name
        path.write_bytes(content)
        sentence = (
            r"empty \(0 bytes\)"
            if not content
            else "not a JPEG, PNG, WEBP, BMP, GIF, TIFF or AVIF"
        )
        with pytest.raises(ImageError, match=sentence) as caught:
            decode(path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_format_outside_the_allow_list():
    with pytest.raises(ImageError, match="not a JPEG, PNG"):
        decode(encode(Image.fromarray(colour_array()), "PPM"))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_cut_at_ten_depths_is_an_error(file_format):
    noise = np.random.Generator(np.random.Philox(key=5)).integers(0, 256, (48, 80, 3))
    content = encode(Image.fromarray(noise.astype(np.uint8)), file_format)
    for tenth in range(10):
        with pytest.raises(ImageError):
            decode(content[: len(content) * tenth // 10])


def png_with_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\x00" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height", "sentence"),
    [
        (
            100_000,
            100_000,
            "the header claims more than 178,956,970 pixels; at most 64,",
        ),
        (
            8_001,
            8_000,
            "claims 8001 x 8000 = 64,008,000 pixels; at most 64,000,000 are",
        ),
        (12_000, 9_000, "claims 12000 x 9000 = 108,000,000 pixels"),
    ],
)
def test_pixel_cap_is_read_from_the_header(width, height, sentence):
    with pytest.raises(ImageError, match=sentence):
        decode(png_with_header(width, height))


def test_pixel_cap_is_inclusive():
    content = encode(Image.fromarray(colour_array()), "PNG")
    assert decode(content, max_pixels=60).image.size == (10, 6)
    with pytest.raises(ImageError, match="10 x 6 = 60 pixels; at most 59 are accepted"):
        decode(content, max_pixels=59)


def test_unreadable_missing_folder_and_pipe(tmp_path, monkeypatch):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("folder.jpg", "pipe.jpg"):
        with pytest.raises(ImageError, match="not a regular file"):
            decode(tmp_path / name)
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        decode(tmp_path / "absent.jpg")
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"x")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    # The tests may run as root, whom chmod does not stop.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        decode(path)


def test_broken_exif_is_a_note_or_nothing():
    content = encode(Image.fromarray(colour_array()), "JPEG", exif=b"Exif\0\0II*\0\xff")
    decoded = decode(content)
    assert decoded.image.size == (WIDTH, HEIGHT)


def test_pillow_warning_becomes_a_note_in_its_own_thread_only():
    # 108 MP passes a larger cap but makes Pillow warn while opening.
    content = png_with_header(12_000, 9_000)
    plain = encode(Image.fromarray(colour_array()), "PNG")
    filters = list(warnings.filters)
    show = warnings.showwarning
    notes: list[tuple[str, ...]] = []

    def clean():
        for _ in range(30):
            notes.append(decode(plain).notes)

    def noisy():
        for _ in range(30):
            with pytest.raises(ImageError):
                decode(content)

    threads = [threading.Thread(target=target) for target in (clean, noisy, clean)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes == [()] * 60
    assert warnings.filters == filters
    assert warnings.showwarning is show


def test_process_wide_switches_of_pillow_are_untouched():
    from PIL import ImageFile

    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    decode(encode(Image.fromarray(colour_array()), "JPEG"))
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)


def write_lab(file, values):
    Image.frombytes("LAB", (2, 2), bytes(values)).save(file)


def test_cielab_is_converted_by_its_formula(tmp_path):
    """The stored a* and b* were taken for green and blue.

    Values of D50 by hand: L* = 116 f(Y) - 16; sRGB's red is (54.29, 80.80, 69.89),
    its green (87.82, -79.27, 80.99), its blue (29.57, 68.30, -112.03).
    """
    colours = {
        (100, 0, 0): (255, 255, 255),
        (54.29, 80.80, 69.89): (255, 0, 0),
        (87.82, -79.27, 80.99): (0, 255, 0),
        (29.57, 68.30, -112.03): (0, 0, 255),
    }
    stored = [
        value
        for light, a, b in colours
        for value in (round(light * 2.55), round(a) % 256, round(b) % 256)
    ]
    write_lab(tmp_path / "lab.tif", stored)
    found = decode(tmp_path / "lab.tif")
    pixels = np.asarray(found.image).reshape(4, 3).astype(int)
    assert (
        np.abs(pixels - np.array(list(colours.values()))).max() <= 24
    )  # of 8-bit a* and b*
    assert np.abs(pixels[0] - 255).max() <= 1
    gray = [value for _ in range(4) for value in (round(53.585 * 2.55), 0, 0)]
    write_lab(tmp_path / "gray.tif", gray)
    assert np.abs(np.asarray(decode(tmp_path / "gray.tif").image) - 128.0).max() <= 1.5
    assert found.notes == ("CIELAB (D50) converted to sRGB",)


@pytest.mark.parametrize("photometric", [8, 9, 10])
def test_other_colours_of_16_bits_are_refused(photometric, tmp_path):
    values = np.zeros((4, 4, 3), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric)
    with pytest.raises(ImageError, match=r"(CIELAB|Lab) of 16 bits"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_zero_may_be_white(dtype, tmp_path):
    """X-rays are stored so; 16 bits had come out inverted, 8 bits had not."""
    top = np.iinfo(dtype).max
    values = np.linspace(0, top, 64).reshape(8, 8).astype(dtype)
    pictures = []
    for name, numbers in (("miniswhite", top - values), ("minisblack", values)):
        file = tmp_path / f"{name}.tif"
        tifffile.imwrite(file, numbers, photometric=name)
        found = decode(file).image
        pictures.append(np.asarray(found))
        raster = getattr(found, "raster", None)
        if raster is not None:
            np.testing.assert_array_equal(raster.values[..., 0], values)
    np.testing.assert_array_equal(*pictures)
