"""Guarded reads: what is not a regular file is refused at once; JSON is bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rtmo_deploy.files import UnreadableError, open_regular, read_bounded
from rtmo_deploy.plain import parse_json, read_json


@pytest.mark.timeout(60)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to(fifo)
    for path in (fifo, link):
        with pytest.raises(UnreadableError, match="a FIFO"):
            open_regular(path)
    with pytest.raises(UnreadableError, match="a device"):
        read_bounded(Path("/dev/zero"), max_bytes=10)
    with pytest.raises(UnreadableError, match="a folder"):
        open_regular(tmp_path)
    for name in ("a\0b", "\udc00\ud800"):
        with pytest.raises(UnreadableError, match="not a file name"):
            open_regular(Path(name))
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_sizes_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"[1, 2]")
    assert read_bounded(path, max_bytes=6) == b"[1, 2]"
    assert read_json(path, max_bytes=6) == [1, 2]
    with pytest.raises(UnreadableError, match="6 B; at most 5 B"):
        read_bounded(path, max_bytes=5)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested"),
        ("[" * 65 + "]" * 65, "nested"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested"),
        ("[Infinity]", "Infinity"),
        ("[-1e999]", "too large"),
        ("[NaN]", "NaN"),
        ("9" * 5000, "not JSON"),
        (b"\xff\xff", "not"),
        ("", "not JSON"),
    ],
)
def test_hostile_json_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(UnreadableError, match=why):
        parse_json(text)


def test_depth_is_counted_exactly() -> None:
    assert parse_json("[" * 64 + "]" * 64) is not None
