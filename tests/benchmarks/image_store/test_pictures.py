"""Decoding: upright, RGB, square, and an error for what is not a whole image."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torchvision.transforms import v2

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.pictures import FORMATS, decode, open_picture, picture_size


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "height"), [(40, 40), (60, 40), (40, 70), (41, 67), (97, 23)])
def test_the_central_square_as_torchvision_cuts_it(width: int, height: int) -> None:
    image = noise(width, height)
    expected = v2.Compose([v2.Resize(20), v2.CenterCrop(20)])(image)
    ours = decode(encoded(image), 20)
    assert ours.shape == (20, 20, 3) and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_an_image_of_the_right_size_is_kept_bit_by_bit() -> None:
    image = noise(16, 16)
    np.testing.assert_array_equal(decode(encoded(image), 16), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(orientation: int) -> None:
    image = noise(24, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        upright = ImageOps.exif_transpose(opened).copy()
    np.testing.assert_array_equal(decode(data, 16), decode(encoded(upright), 16))


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("upright", [False, True])
def test_the_size_is_known_before_decoding(orientation: int | None, upright: bool) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    data = encoded(noise(24, 16), "JPEG", exif=exif)
    opened = open_picture(data, upright=upright)
    assert picture_size(data, upright=upright) == (opened.height, opened.width)
    assert (opened.height > opened.width) == (upright and orientation is not None and orientation >= 5)


def test_official_loaders_leave_transparent_parts_as_they_are() -> None:
    drawing = encoded(Image.new("RGBA", (8, 8), (10, 20, 30, 0)))
    assert open_picture(drawing).getpixel((0, 0)) == (10, 20, 30)
    assert open_picture(drawing, upright=True).getpixel((0, 0)) == (255, 255, 255)


def test_grey_palette_and_cmyk_become_rgb() -> None:
    grey = Image.new("L", (8, 8), 77)
    assert (decode(encoded(grey), 8) == 77).all()
    red = Image.new("RGB", (8, 8), (200, 0, 0))
    assert (decode(encoded(red.convert("P", palette=Image.Palette.ADAPTIVE)), 8) == (200, 0, 0)).all()
    assert decode(encoded(red.convert("CMYK"), "JPEG"), 8).shape == (8, 8, 3)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 256 * 100, 65535, 300]] * 4, dtype=np.uint16))
    assert decode(encoded(deep), 4)[0, :, 0].tolist() == [0, 100, 255, 1]


def test_transparent_parts_become_white() -> None:
    drawing = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (2, 2, 6, 6))
    pixels = decode(encoded(drawing), 8)
    assert (pixels[0, 0] == 255).all() and (pixels[4, 4] == 0).all()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert (decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 8) == (255, 0, 0)).all()


def test_a_sliver_is_cut_before_it_is_resized() -> None:
    assert decode(encoded(Image.new("RGB", (60_000, 1))), 64).shape == (64, 64, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_truncated_image_is_damaged(kind: str) -> None:
    data = encoded(noise(64, 64), kind)
    assert decode(data, 8).shape == (8, 8, 3)
    for keep in (len(data) * 2 // 3, len(data) // 3):
        with pytest.raises(BenchmarkError, match=r"damaged image|not an image"):
            decode(data[:keep], 8)


@pytest.mark.parametrize("data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"])
def test_what_is_no_raster_image(data: bytes) -> None:
    with pytest.raises(BenchmarkError, match="not an image in one of the formats JPEG, PNG"):
        decode(data, 8)


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_only_a_beginning(data: bytes) -> None:
    with pytest.raises(BenchmarkError, match=r"damaged image|not an image"):
        decode(data, 8)


def test_pixels_without_a_range_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="no fixed range"):
        decode(encoded(Image.new("F", (8, 8)), "TIFF"), 8)


def test_a_picture_beyond_the_limit_is_refused_without_decoding_it() -> None:
    def claiming(width: int, height: int) -> bytes:
        data = bytearray(encoded(Image.new("L", (8, 8))))
        data[16:24] = width.to_bytes(4) + height.to_bytes(4)
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
        return bytes(data)

    with pytest.raises(BenchmarkError, match="20000 x 10001 pixels, more than the 200 megapixels that are read"):
        decode(claiming(20_000, 10_001), 8)
    with pytest.raises(BenchmarkError, match=r"^more than the 200 megapixels"):
        decode(claiming(60_000, 60_000), 8)
    with pytest.raises(BenchmarkError, match="damaged"):  # within the limit, but without so many pixels
        decode(claiming(200_000, 10), 8)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow is built without AVIF")
def test_avif_is_read() -> None:
    assert (
        abs(decode(encoded(Image.new("RGB", (16, 16), (10, 200, 30)), "AVIF"), 8).astype(int) - (10, 200, 30)).max() < 4
    )


@pytest.mark.parametrize("most", [255, 1023, 65_535])
def test_grey_of_sixteen_bits_is_scaled(most: int) -> None:
    values = np.array([[0, most // 2], [most, most]], dtype=">u2" if most > 255 else "u1")
    pixels = open_picture(b"P5\n2 2\n%d\n" % most + values.tobytes(), upright=True)
    assert [pixels.getpixel(place) for place in ((0, 0), (1, 0), (0, 1))] == [(0,) * 3, (127,) * 3, (255,) * 3]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_long_text_in_a_png_is_no_damage(compressed: bool) -> None:
    texts = PngInfo()
    for number in range(1 if compressed else 70):
        texts.add_text(f"Comment {number}", "x" * (2**20 + (2**20 if compressed else -99)), zip=compressed)
    picture, plain = noise(12, 10), encoded(noise(12, 10))
    data = encoded(picture, "PNG", pnginfo=texts)
    assert picture_size(data) == picture_size(plain)
    assert np.array_equal(np.asarray(open_picture(data, upright=True)), np.asarray(open_picture(plain, upright=True)))
