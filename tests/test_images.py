"""images: one written rule for every kind of picture, and a refusal for everything else."""

import contextlib
import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from catdog.errors import BadImage, CatdogError, TooLarge, UnsupportedType
from catdog.images import FILL, MAX_PIXELS, Geometry, Preprocess, decode, read


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds hardly any data."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


def test_rgb_comes_through_unchanged() -> None:
    image = noise(20, 12)
    assert np.array_equal(np.asarray(decode(encoded(image))), np.asarray(image))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16", 65535, (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb_by_the_written_rule(mode: str, colour: Any, expected: tuple[int, int, int]) -> None:
    assert decode(encoded(Image.new(mode, (16, 16), colour))).getpixel((3, 3)) == expected


def test_cmyk_and_palette_become_rgb() -> None:
    cmyk = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = cmyk.getpixel((8, 8))  # type: ignore[misc]
    assert red > 240 and green < 15 and blue < 15
    palette = Image.new("RGB", (16, 16), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(encoded(palette, "GIF")).getpixel((8, 8)) == (10, 200, 30)


def test_the_eight_exif_orientations_show_the_same_upright_picture(shared_data: Callable[..., Path]) -> None:
    folder = shared_data("hostile_images", "exif")
    upright = [np.asarray(decode((folder / f"Landscape_{n}.jpg").read_bytes()).resize((60, 40)), dtype=float) for n in range(1, 9)]
    for other in upright[1:]:
        assert np.abs(other - upright[0]).mean() < 6  # stored after a lossy rotation; a wrong turn differs by 60


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_eight_exif_orientations_of_one_picture_give_equal_pixels(kind: str) -> None:
    """Stored turned and mirrored so that each tag undoes it. In JPEG by whole blocks of one colour, which it keeps."""
    greys = np.random.default_rng(1).integers(0, 256, (2, 3, 1), dtype=np.uint8)
    upright = Image.fromarray(np.kron(greys, np.ones((16, 16, 3), np.uint8)))
    undone_by: dict[int, list[Image.Transpose]] = {
        1: [], 2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }
    seen = set()
    for orientation, turns in undone_by.items():
        stored = upright
        for turn in turns:
            stored = stored.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = read(encoded(stored, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {})))
        assert picture.orientation == orientation and picture.image.size == upright.size
        seen.add(picture.image.tobytes())
    assert len(seen) == 1


def test_a_picture_says_how_it_was_stored() -> None:
    cmyk = read(encoded(Image.new("CMYK", (16, 16)), "JPEG"))
    assert (cmyk.format, cmyk.mode, cmyk.orientation, cmyk.image.mode) == ("JPEG", "CMYK", 1, "RGB")
    assert read(encoded(Image.new("I;16", (16, 16)))).mode == "I;16"
    exif = Image.Exif()
    exif[0x0112] = 77  # no orientation
    assert read(encoded(noise(16, 16), exif=exif)).orientation == 1


GOLDEN = {
    "L": (77, 77, 77), "LA": (166, 166, 166), "P": (10, 200, 30), "RGBA": (128, 230, 140), "CMYK": (189, 125, 4), "I;16": (78, 78, 78),
}


@pytest.mark.parametrize(("mode", "colour", "kind"), [
    ("L", 77, "PNG"), ("LA", (77, 128), "PNG"), ("P", (10, 200, 30), "PNG"), ("RGBA", (0, 205, 24, 127), "PNG"),
    ("CMYK", (20, 100, 250, 50), "JPEG"), ("I;16", 20_000, "PNG"),
])
def test_golden_pixels_of_the_modes(mode: str, colour: Any, kind: str) -> None:
    """By hand: LA and RGBA over white as round(a c + (1 - a) 255), a of 255; I;16 as 20000 / 257; CMYK as (255 - c)(255 - k) / 255."""
    palette = mode == "P"
    image = Image.new("RGB" if palette else mode, (16, 16), colour)
    image = image.convert("P", palette=Image.Palette.ADAPTIVE) if palette else image
    picture = read(encoded(image, kind, **({"quality": 100} if kind == "JPEG" else {})))
    assert picture.mode == mode
    shown = picture.image.getpixel((5, 5))
    assert np.abs(np.subtract(shown, GOLDEN[mode])).max() <= (1 if kind == "JPEG" else 0), shown  # type: ignore[arg-type]


def test_a_transparent_16_bit_grey_is_laid_over_white() -> None:
    image = Image.new("I;16", (16, 16), 1000)
    image.putpixel((3, 3), 1001)
    picture = decode(encoded(image, transparency=1000))
    assert picture.getpixel((0, 0)) == (255, 255, 255) and picture.getpixel((3, 3)) == (4, 4, 4)


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((8, 8)) == (255, 0, 0)


def test_a_truncated_jpeg_is_refused_wherever_it_was_cut() -> None:
    whole = encoded(noise(64, 64), "JPEG")
    for percent in range(5, 100, 5):
        with pytest.raises((BadImage, UnsupportedType)):
            decode(whole[: len(whole) * percent // 100])


def test_a_wrong_checksum_is_refused_even_though_pixels_could_be_loaded(shared_data: Callable[..., Path]) -> None:
    with pytest.raises(BadImage):
        decode(shared_data("hostile_images", "pngsuite", "xcsn0g01.png").read_bytes())


@pytest.mark.parametrize("data", [b"", b"not an image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7"])
def test_what_is_no_picture_is_an_unsupported_type(data: bytes) -> None:
    with pytest.raises(UnsupportedType, match=r"Expected a picture.*Received"):
        decode(data)


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM"])
def test_formats_off_the_list_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedType):
        decode(encoded(noise(16, 16), kind))


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_a_picture_too_small_to_show_anything_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadImage, match=f"Received: {size[0]}x{size[1]}"):
        decode(encoded(noise(*size)))


@pytest.mark.parametrize("size", [(50_000, 50_000), (100_000, 8), (8_000, MAX_PIXELS // 8_000 + 1)])
def test_a_bomb_is_refused_from_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge):
        decode(header_only_png(*size))


def test_hostile_pictures_are_decoded_or_refused_and_nothing_else(shared_data: Callable[..., Path]) -> None:
    folder = shared_data("hostile_images")
    refused = set()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            assert decode(path.read_bytes()).mode == "RGB", path.name
        except CatdogError as error:
            assert isinstance(error, (BadImage, UnsupportedType, TooLarge)), path.name
            assert "Received" in error.message
            refused |= {path.name} if path.parent.name == "pngsuite" else set()
    made_to_be_broken = {path.name for path in (folder / "pngsuite").glob("x*")}
    assert len(made_to_be_broken) == 14
    assert refused == made_to_be_broken | {path.name for path in (folder / "pngsuite").glob("s0[1-7]*")}  # and sides of 1 to 7 pixels


@given(data=st.binary(max_size=200), seed=st.integers(0, 1000))
def test_mutated_bytes_never_raise_anything_else(data: bytes, seed: int) -> None:
    whole = bytearray(encoded(noise(16, 16, seed % 3), ("PNG", "JPEG", "GIF", "BMP", "WEBP")[seed % 5]))
    at = random.Random(seed).randrange(len(whole))
    whole[at : at + len(data)] = data
    with contextlib.suppress(BadImage, UnsupportedType, TooLarge):
        decode(bytes(whole))


def test_preprocess_keeps_the_middle_square() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (110, 10, 190, 90))
    pixels = Preprocess(32, crop=0.75).pixels(image)  # the middle 75 x 75 lies wholly in the blue 80 x 80
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.broadcast_to(np.array([0, 0, 255], np.uint8), (32, 32, 3)))


def test_preprocess_of_the_whole_at_its_own_size_is_the_picture() -> None:
    image = noise(24, 24)
    assert np.array_equal(Preprocess(24, crop=1.0).pixels(image), np.asarray(image))


def test_preprocess_travels_as_a_dictionary() -> None:
    preprocess = Preprocess(64, resize="bilinear", crop=0.9)
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


def bars(pixels: Any, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour."""
    return int((pixels == np.array(colour, np.uint8)).all(axis=2).sum())


def test_letterbox_keeps_the_whole_picture_between_grey_bars() -> None:
    preprocess = Preprocess(32, geometry="letterbox")
    pixels = preprocess.pixels(Image.new("RGB", (100, 50), "red"))
    assert bars(pixels, (255, 0, 0)) == bars(pixels, FILL["letterbox"]) == 16 * 32
    assert preprocess.survives(100, 50) == 1


def test_stretch_keeps_the_whole_picture() -> None:
    image = Image.new("RGB", (100, 50), "red")
    image.paste("blue", (0, 0, 50, 50))
    pixels = Preprocess(32, geometry="stretch", resize="bilinear").pixels(image)
    assert (pixels[:, 0] == (0, 0, 255)).all() and (pixels[:, -1] == (255, 0, 0)).all()


def test_center_crop_takes_the_middle_pixels_as_they_are() -> None:
    preprocess = Preprocess(8, geometry="center_crop")
    image = noise(20, 12)
    assert np.array_equal(preprocess.pixels(image), np.asarray(image)[2:10, 6:14])
    small = preprocess.pixels(Image.new("RGB", (4, 20), "red"))
    assert bars(small, (255, 0, 0)) == bars(small, FILL["center_crop"]) == 4 * 8
    assert preprocess.survives(20, 12) == 64 / 240 and preprocess.survives(4, 4) == 1


@pytest.mark.parametrize(
    ("geometry", "frame"),
    [
        ("resize_crop", (57.5, 7.5, 142.5, 92.5)), ("center_crop", (70, 20, 130, 80)), ("letterbox", (0, -50, 200, 150)),
        ("stretch", (0, 0, 200, 100)),
    ],
)
def test_what_becomes_the_square(geometry: Any, frame: tuple[float, ...]) -> None:
    assert Preprocess(60, crop=0.85, geometry=geometry).frame(200, 100) == pytest.approx(frame)


@given(width=st.integers(8, 300), height=st.integers(8, 300), geometry=st.sampled_from(get_args(Geometry)))
def test_every_shape_becomes_the_square(width: int, height: int, geometry: Any) -> None:
    preprocess = Preprocess(16, geometry=geometry)
    assert preprocess.pixels(Image.new("RGB", (width, height))).shape == (16, 16, 3)
    assert 0 < preprocess.survives(width, height) <= 1
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


def test_a_package_of_before_means_the_usual_geometry() -> None:
    assert Preprocess.from_dict({"image_size": 16, "resize": "bicubic", "crop": 0.875}).geometry == "resize_crop"


@given(width=st.integers(8, 60), height=st.integers(8, 60), side=st.integers(8, 40))
def test_the_middle_pixels_are_taken_from_a_whole_pixel_on(width: int, height: int, side: int) -> None:
    """The frame is what training cuts out, and what is shown of it is what serving keeps: not half a pixel beside."""
    preprocess = Preprocess(side, geometry="center_crop")
    left, top, right, bottom = frame = preprocess.frame(width, height)
    assert all(edge == int(edge) for edge in frame) and (right - left, bottom - top) == (side, side)
    image = noise(width, height)
    expected = np.asarray(image.crop((int(max(left, 0)), int(max(top, 0)), int(min(right, width)), int(min(bottom, height)))))
    pixels = preprocess.pixels(image)
    down, across = (side - expected.shape[0]) // 2, (side - expected.shape[1]) // 2
    assert np.array_equal(pixels[down : down + expected.shape[0], across : across + expected.shape[1]], expected)


def test_want_of_memory_says_nothing_about_a_picture(tmp_path: Path) -> None:
    """In a process of its own with little memory: a whole picture is not called broken."""
    path = tmp_path / "large.png"
    Image.new("RGB", (7000, 7000)).save(path)
    program = f"""
import resource
from pathlib import Path
from catdog.images import read
data = Path({str(path)!r}).read_bytes()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20,) * 2)
try:
    read(data)
except MemoryError:
    print("no memory")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "no memory\n", done.stderr


def test_a_large_jpeg_is_decoded_as_small_as_can_be_and_shows_the_same() -> None:
    photo = noise(40, 30).resize((2400, 1800), Image.Resampling.BICUBIC)
    data, preprocess = encoded(photo, "JPEG", quality=95), Preprocess(64)
    assert read(data, lambda width, height: min(width, height) / 450).image.size == (600, 450)
    assert read(data).image.size == (2400, 1800)
    whole, reduced = preprocess.pixels(decode(data)).astype(int), preprocess.pixels_of(data).astype(int)
    assert not np.array_equal(whole, reduced)  # it was done
    assert np.abs(whole - reduced).mean() < 1 and np.abs(whole - reduced).max() < 16


@pytest.mark.parametrize("geometry", get_args(Geometry))
@pytest.mark.parametrize("size", [(2400, 1500), (300, 1900)])
def test_a_reduced_picture_has_the_pixels_that_are_wanted(geometry: Geometry, size: tuple[int, int]) -> None:
    preprocess, seen = Preprocess(64, geometry=geometry), []

    def spare(width: int, height: int) -> float:
        seen.append(preprocess._spare(width, height))
        return seen[-1]

    image = read(encoded(noise(*size), "JPEG"), spare).image
    left, top, right, bottom = preprocess._box(*image.size)
    across, down = preprocess._target(*image.size)
    if seen[0] > 2:
        assert image.size < size
    assert image.size == size or min((right - left) / across, (bottom - top) / down) > 0.99


def test_center_crop_and_other_formats_are_decoded_whole() -> None:
    large = noise(1200, 900)
    for data, preprocess in ((encoded(large, "JPEG"), Preprocess(64, geometry="center_crop")), (encoded(large), Preprocess(64))):
        assert np.array_equal(preprocess.pixels_of(data), preprocess.pixels(decode(data)))


def test_a_small_jpeg_is_decoded_whole() -> None:
    data, preprocess = encoded(noise(120, 100), "JPEG"), Preprocess(64)
    assert np.array_equal(preprocess.pixels_of(data), preprocess.pixels(decode(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_picture_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data, preprocess = encoded(noise(12, 9).resize((1600, 1200)), "JPEG", exif=exif, quality=95), Preprocess(32)
    difference = preprocess.pixels_of(data).astype(int) - preprocess.pixels(decode(data))
    assert np.abs(difference).mean() < 2


def test_a_truncated_large_jpeg_is_refused() -> None:
    data = encoded(noise(1200, 900), "JPEG")
    with pytest.raises(BadImage):
        Preprocess(64).pixels_of(data[: len(data) // 2])
