"""Archives in every form, and all that a hostile or damaged one can try."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from smope_bench.benchmarks.download.archives import Limits, Member, checked_name, is_clutter, members
from smope_bench.benchmarks.errors import BenchmarkError

FILES = {"top/b.jpg": b"b" * 700, "top/a.txt": b"", "top/deep/er/c.bin": random.Random(0).randbytes(5000)}


def tar_bytes(entries: dict[str, bytes] | list[tarfile.TarInfo], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry, io.BytesIO(bytes(entry.size)) if entry.isreg() else None)
            else:
                info = tarfile.TarInfo(entry)
                info.size = len(entries[entry])  # type: ignore[call-overload]
                tar.addfile(info, io.BytesIO(entries[entry]))  # type: ignore[call-overload]
    return out.getvalue()


def zip_bytes(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes, name: str = "archive.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


Write = Callable[..., Path]


def content(path: Path, **limits: float) -> dict[str, bytes]:
    return {member.name: member.read() for member in members(path, limits=Limits(**limits))}  # type: ignore[arg-type]


def refusal(path: Path, *words: str, **limits: float) -> None:
    """Reading an archive to its end gives one sentence and leaves nothing beside it."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(BenchmarkError) as caught:
        content(path, **limits)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and all(word in text for word in words), text
    assert sorted(path.parent.rglob("*")) == before


FORMS: dict[str, Callable[[], bytes]] = {
    "pax": lambda: tar_bytes(FILES),
    "gnu": lambda: tar_bytes(FILES, tarfile.GNU_FORMAT),
    "ustar": lambda: tar_bytes(FILES, tarfile.USTAR_FORMAT),
    "tar.gz": lambda: gzip.compress(tar_bytes(FILES)),
    "zip": lambda: zip_bytes(FILES),
    "stored zip": lambda: zip_bytes(FILES, zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_members_in_its_own_order(form: str, write: Write) -> None:
    path = write(FORMS[form]())
    assert content(path) == FILES and [member.name for member in members(path)] == list(FILES)
    assert [member.size for member in members(path)] == [len(data) for data in FILES.values()]


def test_an_unpacked_folder_is_sorted(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(data)
    assert content(tmp_path / "mine") == FILES
    assert [member.name for member in members(tmp_path / "mine")] == ["top/a.txt", "top/b.jpg", "top/deep/er/c.bin"]


def test_long_names_survive(write: Write) -> None:
    name = "top/" + "x" * 90 + "/" + "y" * 200 + "é.jpg"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert content(write(tar_bytes({name: b"1"}, form))) == {name: b"1"}


def test_an_old_tar_without_a_mark(write: Write) -> None:
    data = bytearray(tar_bytes({"a": b"1"}, tarfile.USTAR_FORMAT))
    data[257:265] = bytes(8)
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    assert content(write(bytes(data))) == {"a": b"1"}


def test_what_macos_adds_is_left_out(write: Write) -> None:
    clutter = {"__MACOSX/top/._b.jpg": b"1", "top/.DS_Store": b"2", "top/._b.jpg": b"3", "./top//kept": b"4"}
    assert content(write(tar_bytes(clutter))) == content(write(zip_bytes(clutter))) == {"top/kept": b"4"}


def test_folders_are_not_members(write: Write) -> None:
    assert content(write(tar_bytes([entry("./", tarfile.DIRTYPE), entry("a/", tarfile.DIRTYPE), entry("a/b")]))) == {
        "a/b": b""
    }
    assert content(write(zip_bytes({"a/": b"", "a/b": b"1"}))) == {"a/b": b"1"}


@pytest.mark.parametrize("form", ["pax", "tar.gz", "zip"])
def test_a_member_is_read_in_its_turn_or_skipped(form: str, write: Write) -> None:
    path = write(FORMS[form]())
    kept: list[Member] = list(members(path))
    with pytest.raises(LookupError, match="after the next one was asked for"):
        kept[0].read()
    assert [member.read() for member in members(path) if member.name == "top/deep/er/c.bin"] == [
        FILES["top/deep/er/c.bin"]
    ]


BAD_NAMES = [
    ("../evil", "leads out"),
    ("top/../../evil", "leads out"),
    ("/etc/evil", "absolute"),
    ("C:/evil", "absolute"),
    ("c:evil", "absolute"),
    ("top\\evil", "backslash"),
    ("top/e\nvil", "control character"),
]


@pytest.mark.parametrize(("name", "words"), BAD_NAMES)
def test_names_that_lead_out(name: str, words: str, write: Write) -> None:
    for data in (tar_bytes({name: b"1"}), gzip.compress(tar_bytes({name: b"1"})), zip_bytes({name: b"1"})):
        refusal(write(data), repr(name), words, "--from FILE")
    refusal(write(tar_bytes([entry(name, tarfile.DIRTYPE)])), words)


def test_a_name_that_holds_a_nul(write: Write) -> None:
    data = zip_bytes({"top/evilX.jpg": b"1"}).replace(b"evilX", b"evil\0")
    refusal(write(data), "control character")


def test_names_are_checked_by_their_parts() -> None:
    assert checked_name("./a//b/./c") == ("a/b/c", "") and checked_name("a..b/..c") == ("a..b/..c", "")
    assert is_clutter("") and is_clutter("a/._b") and not is_clutter("a/_b")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link to '/etc/passwd'"),
        (tarfile.LNKTYPE, "a link to '/etc/passwd'"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "pipe"),
    ],
)
def test_links_and_devices_are_refused(kind: bytes, words: str, write: Write) -> None:
    refusal(write(tar_bytes([entry("a"), entry("top/x", kind, link="/etc/passwd")])), "'top/x'", words)


def test_a_link_in_a_zip(write: Write) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("top/x")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    refusal(write(out.getvalue()), "'top/x'", "link")


def test_links_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (tmp_path / "outside").write_text("x")
    (folder / "file").write_text("y")
    (folder / "inside").symlink_to(folder / "file")
    assert content(folder) == {"file": b"y", "inside": b"y"}
    (folder / "out").symlink_to(tmp_path / "outside")
    refusal(folder, "'out'", "leaves the folder")
    (folder / "out").unlink()
    (folder / "sub").symlink_to(tmp_path)
    refusal(folder, "'sub'", "a link to a folder")


def test_a_name_twice(write: Write) -> None:
    refusal(write(tar_bytes([entry("a/b"), entry("./a/b")])), "twice")


def test_a_bomb_is_refused_before_it_is_read(write: Write) -> None:
    bomb = {"top/zeros": bytes(4 << 20)}
    for data in (gzip.compress(tar_bytes(bomb)), zip_bytes(bomb)):
        path = write(data)
        assert content(path) == bomb, "small archives may be as empty as they like"
        refusal(path, "'top/zeros'", "expand to", ratio_from=1 << 20)
    read: list[str] = []
    with pytest.raises(BenchmarkError):
        read += [member.name for member in members(path, limits=Limits(ratio_from=1 << 20))]
    assert not read


def test_limits_of_number_and_size(write: Write) -> None:
    path = write(tar_bytes(FILES))
    refusal(path, "more than 2 members", max_members=2)
    refusal(path, "'top/deep/er/c.bin'", "more than 4,000", max_member_bytes=4000)
    refusal(path, "more than 5,000 bytes", max_total_bytes=5000)


def test_members_without_end_are_counted_before_they_are_kept(write: Write) -> None:
    refusal(
        write(gzip.compress(tar_bytes([entry(f"d{n}/", tarfile.DIRTYPE) for n in range(50)]))), "40", max_members=40
    )


def test_padding_without_end(write: Write) -> None:
    refusal(write(gzip.compress(tar_bytes({"a": b"1"}) + bytes(8 << 20))), "padding", ratio_from=1 << 20)


def test_a_header_that_would_fill_the_memory(write: Write) -> None:
    header = entry("PaxHeader", tarfile.XHDTYPE, size=1 << 40).tobuf(tarfile.GNU_FORMAT)
    refusal(write(gzip.compress(header + bytes(2048))), "damaged", "a header of 1,099,511,627,776 bytes")


def test_a_zip_that_declares_less_than_it_holds(write: Write) -> None:
    data = bytearray(zip_bytes({"top/a": bytes(100_000)}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(mark) + offset, 100)
    refusal(write(bytes(data)), "damaged", "'top/a'")


def test_a_zip_that_declares_more_than_it_holds(write: Write) -> None:
    data = bytearray(zip_bytes({"top/a": b"1" * 100}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(mark) + offset, 101)
    refusal(write(bytes(data)), "damaged", "'top/a'")


def test_an_encrypted_zip(write: Write) -> None:
    data = bytearray(zip_bytes({"top/a": b"1"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    refusal(write(bytes(data)), "encrypted")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_archive(form: str, share: float, write: Write) -> None:
    data = FORMS[form]()
    if form in ("pax", "gnu", "ustar"):
        data = data.rstrip(b"\0")  # the marks at its end may be missing in part
    refusal(write(data[: int(len(data) * share)]), "--from FILE")


@pytest.mark.parametrize("cut", [512, 1024, 2048])
def test_a_tar_that_ends_between_two_members(cut: int, write: Write) -> None:
    data = tar_bytes({"a": b"1" * 512, "b": b"2" * 512, "c": b""}, tarfile.USTAR_FORMAT)
    refusal(write(data[:cut]), "cut off")


def test_a_truncated_gzip_whose_tar_is_whole(write: Write) -> None:
    refusal(write(gzip.compress(tar_bytes(FILES))[:-4]), "cut off")


@pytest.mark.parametrize("place", [0.1, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_one_altered_byte_is_found_by_checksum(form: str, place: float, write: Write) -> None:
    content_at = {"top/x": random.Random(1).randbytes(20_000)}
    data = bytearray(gzip.compress(tar_bytes(content_at)) if form == "tar.gz" else zip_bytes(content_at))
    data[int(len(data) * place)] ^= 0xFF
    refusal(write(bytes(data)), "damaged")


def test_a_damaged_zip_of_another_compression_is_refused(write: Write) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("top/x", random.Random(1).randbytes(20_000))
    data = bytearray(stream.getvalue())
    data[10_000:10_064] = b"\xff" * 64
    refusal(write(bytes(data)), "damaged", "'top/x'")


def test_an_altered_header_does_not_end_a_tar_silently(write: Write) -> None:
    data = bytearray(tar_bytes({"a": b"1", "b": b"2", "c": b"3"}, tarfile.USTAR_FORMAT))
    data[1024] ^= 1
    refusal(write(bytes(data)), "damaged at 'a'", "bad header")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "<!DOCTYPE html>"),
        (random.Random(2).randbytes(1000), "is not a tar"),
        (gzip.compress(b"not a tar" * 100, mtime=0), "damaged"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
    ],
)
def test_what_is_no_archive(data: bytes, words: str, write: Write) -> None:
    refusal(write(data), words)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    refusal(tmp_path / "absent.tar", "cannot be read (No such file or directory)")
