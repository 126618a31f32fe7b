"""What is meant by the sources given, and opening images among them."""

from __future__ import annotations

import io
import os
import sys
import threading

import cv2
import numpy as np
import pytest
from clips import clip, read

from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.media import Source, find_sources, open_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images and videos, hidden ones too, and what only looks like it."""
    cv2.imwrite(str(tmp_path / "b.jpg"), np.zeros((4, 6, 3), np.uint8))
    clip(tmp_path / "a.mp4", frames=2)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.avi").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "video.jpg").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / ".hidden.mp4").touch()
    (tmp_path / "notes.md").write_text("# nothing")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*given, **options):
    sources, failures = find_sources(given, **options)
    assert not failures
    return [(source.name, source.kind) for source in sources]


def test_folders_and_patterns(folder):
    listed = [("a.mp4", "video"), ("b.jpg", "image"), ("video.jpg", "video")]
    assert found(".") == listed
    assert found(".", recursive=True) == [*listed[:2], ("sub/c.avi", "video"), listed[2]]
    assert found("**/*") == found(".", recursive=True)
    assert found("*.jpg", "a.mp4", "./b.jpg", folder / "a.mp4") == [*listed[1:], listed[0]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("0", "live"),
        ("/dev/video2", "live"),
        ("rtsp://user:secret@host:554/live?x=1", "live"),
        ("RTSPS://host/live", "live"),
        ("udp://@:1234", "live"),
        ("http://host/stream", "live"),
        ("http://host/live.m3u8", "live"),
        ("https://host/a.MP4?token=1", "video"),
        ("https://host/a.jpg?size=2", "image"),
        ("https://host/live.ts", "live"),
    ],
)
def test_addresses_and_cameras(folder, name, kind):
    assert found(name, name) == [(name, kind)]


def test_a_file_named_as_a_camera_is_a_file(folder):
    (folder / "b.jpg").rename(folder / "0")
    assert found("0") == [("0", "image")]


def test_no_password_in_titles():
    source = Source("rtsp://user:secret@host/live", "live")
    assert source.title == "rtsp://host/live"
    assert Source("rtsp://host/live?user=a&password=b", "live").title == "rtsp://host/live?user=a&password=***"
    assert Source("a?b#", "image").title == "a?b#"


def test_every_source_has_a_title_of_its_own(folder):
    names = ["http://one@host/a.mp4", "http://two@host/a.mp4", "rtsp://host/?password=a", "rtsp://host/?password=b"]
    sources, _ = find_sources([*names, "a.mp4"])
    assert [source.name for source in sources] == [*names, "a.mp4"]
    titles = [source.title for source in sources]
    assert titles[:2] == ["http://host/a.mp4", "http://host/a.mp4 (2)"]
    assert len(set(titles)) == 5
    renamed = Source("a.mp4", "video", number=2)
    frames = list(open_source(renamed, on_event=print, stop=threading.Event()))
    assert {frame.source for frame in frames} == {"a.mp4 (2)"}


@pytest.mark.parametrize("given", [None, 1.5, True, b"b.jpg", np.zeros((4, 6, 3), np.uint8), {"b.jpg": 1}, [["b.jpg"]]])
def test_what_is_no_source(given):
    with pytest.raises(UsageError, match="is not a source"):
        find_sources(given)


def test_an_address_that_is_none(folder):
    sources, failures = find_sources(["http://user:secret@[host/a.jpg", "b.jpg"])
    assert [source.name for source in sources] == ["b.jpg"]
    assert failures[0].where == "http://[host/a.jpg"


def test_lists(folder, monkeypatch):
    (folder / "sub" / "list.txt").write_text("\ufeff# cameras\n\nrtsp://host/1\n  ../b.jpg  \n7\n*.avi\nnothing.jpg\n")
    sources, failures = find_sources(["sub/list.txt"])
    assert [source.name for source in sources] == ["rtsp://host/1", "sub/../b.jpg", "7", "sub/c.avi"]
    assert [failure.where for failure in failures] == ["sub/nothing.jpg"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.mp4\n# no\nb.jpg\n"))
    assert found("-") == [("a.mp4", "video"), ("b.jpg", "image")]
    (folder / "bad.txt").write_bytes(b"\xff\xfe\x00")
    assert "not a list of sources" in str(find_sources(["bad.txt"])[1][0])
    assert "that it is text" in str(find_sources(["bad.txt"])[1][0])
    (folder / "image.txt").write_bytes((folder / "b.jpg").read_bytes())
    assert found("image.txt") == [("image.txt", "image")]


def test_lists_without_sources(folder, monkeypatch):
    (folder / "none.txt").write_text("# nothing\n\n")
    (folder / "outer.txt").write_text("none.txt\nb.jpg\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    sources, failures = find_sources(["none.txt", "-", "outer.txt"])
    assert [source.name for source in sources] == ["b.jpg"]
    assert [(failure.where, failure.finding) for failure in failures] == [
        ("none.txt", "It names no source."),
        ("standard input", "It names no source."),
        ("none.txt", "A list in a list is not read."),
    ]


def test_a_camera_by_its_number(folder):
    assert found(1) == found("1") == [("1", "live")]
    assert find_sources(1) == ([Source("1", "live")], [])


def test_what_is_missing_does_not_stop_the_others(folder):
    sources, failures = find_sources(["nothing.mp4", "b.jpg", "notes.md", "*.gif", "sub/none*", "a\0b"])
    assert [source.name for source in sources] == ["b.jpg"]
    assert [failure.where for failure in failures] == ["nothing.mp4", "notes.md", "*.gif", "sub/none*", "a\0b"]
    assert all(isinstance(failure, InputDataError) and failure.remedy for failure in failures)


def test_links_that_go_round(folder):
    for name in ("x", "y"):
        (folder / "sub" / name).symlink_to(folder)
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    (folder / "broken.mp4").symlink_to(folder / "nothing.mp4")
    names = [source.name for source in find_sources(["**/*.avi"])[0]]
    assert names == ["sub/c.avi"]
    sources, failures = find_sources(["."], recursive=True)
    assert not failures
    assert {"self.jpg", "broken.mp4", "sub/c.avi"} < {source.name for source in sources}
    assert len(sources) == 6
    for source in sources:
        if source.name in ("self.jpg", "broken.mp4"):
            with pytest.raises(InputDataError, match=r"symbolic links|No such file"):
                read(source.name, source.kind)


def test_a_folder_that_may_not_be_read(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) == "sub":  # noqa: PTH119
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    sources, failures = find_sources(["."], recursive=True)
    assert [source.name for source in sources] == ["a.mp4", "b.jpg", "video.jpg"]
    assert [str(failure) for failure in failures] == [
        "./sub: It cannot be searched: Permission denied. Check its permissions."
    ]


def test_images(folder):
    frames, events = read("b.jpg", "image")
    assert not events
    assert [(frame.source, frame.index, frame.time_s, frame.image.shape) for frame in frames] == [
        ("b.jpg", 0, None, (4, 6, 3))
    ]
    with pytest.raises(InputDataError, match="No such file"):
        read("nothing.jpg", "image")
    os.mkfifo(folder / "fifo.jpg")
    with pytest.raises(InputDataError, match="FIFO"):
        read("fifo.jpg", "image")


def test_opening_is_lazy(folder):
    frames = open_source(Source("nothing.jpg", "image"), on_event=print, stop=threading.Event())
    with pytest.raises(InputDataError):
        next(frames)
