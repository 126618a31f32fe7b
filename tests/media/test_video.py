"""Reading videos: frames, timestamps, orientation, damage."""

from __future__ import annotations

import gc
import os
import struct
import sys
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import clip, image, read, turned

from rtmo_deploy.errors import InputDataError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.media import Source, open_source, video_info


def differs(one, other):
    """Mean difference of two images in grey levels."""
    return np.abs(one.astype(int) - other.astype(int)).mean()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.mov"])
def test_frames_come_in_order_with_their_times(tmp_path, name):
    frames, events = read(clip(tmp_path / name, "h264" if name == "a.ts" else "mpeg4", qmax="2"))
    assert not events
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 25 for n in range(10)], abs=6e-4)
    for number, frame in enumerate(frames):
        assert frame.image.shape == (48, 64, 3)
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert differs(frame.image, image(number)) < differs(frame.image, image(number + 1))
        assert frame.source == str(tmp_path / name)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "most"),
    [
        ("ffv1", "gray", 64),
        ("ffv1", "bgra", 0),
        ("ffv1", "gray16le", 64),
        ("ffv1", "yuv444p10le", 3),
        ("mjpeg", "yuvj420p", 20),
    ],
)
def test_pixel_formats(tmp_path, codec, pix_fmt, most):
    frames, _ = read(clip(tmp_path / "a.mkv", codec, 2, (63, 47), pix_fmt=pix_fmt))
    expected = image(1, (63, 47))
    if pix_fmt.startswith("gray"):
        weights = [0.114, 0.587, 0.299]
        expected = np.repeat((expected @ weights)[..., None], 3, axis=2)
        most = 2
    assert frames[1].image.shape == (47, 63, 3)
    assert differs(frames[1].image, expected) <= most


def test_variable_frame_rate_starts_at_zero(tmp_path):
    stamps = [90, 91, 95, 140, 141, 900]
    path = clip(tmp_path / "a.mp4", stamps=stamps, base=Fraction(1, 600))
    frames, _ = read(path)
    assert [frame.time_s for frame in frames] == [(stamp - 90) / 600 for stamp in stamps]


def test_stride_keeps_numbers_and_times(tmp_path):
    path = clip(tmp_path / "a.mp4")
    frames, _ = read(path, stride=4)
    assert [frame.index for frame in frames] == [0, 4, 8]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.16, 0.32])
    assert np.array_equal(frames[1].image, read(path)[0][4].image)
    with pytest.raises(UsageError, match="stride of 0"):
        read(path, stride=0)


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (0, 1, -1, 0),
        (-1, 0, 0, -1),
        (0, -1, 1, 0),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_display_matrix(tmp_path, matrix):
    path = clip(tmp_path / "a.mp4", frames=1)
    stored = read(path)[0][0].image
    shown = read(turned(path, matrix))[0][0].image
    # Each stored pixel at (x, y) comes to (a x + c y, b x + d y), moved so that all are within the image.
    a, b, c, d = matrix
    y, x = np.mgrid[:48, :64]
    right, down = a * x + c * y, b * x + d * y
    expected = np.zeros((int(np.ptp(down)) + 1, int(np.ptp(right)) + 1, 3), np.uint8)
    expected[down - down.min(), right - right.min()] = stored
    assert np.array_equal(shown, expected)
    assert (video_info(path).width, video_info(path).height) == shown.shape[1::-1]


def test_info(tmp_path):
    info = video_info(clip(tmp_path / "a.mp4", sound="aac"))
    assert (info.width, info.height, info.codec, info.frames, info.fps, info.has_audio) == (
        64,
        48,
        "mpeg4",
        10,
        25,
        True,
    )
    assert info.duration_s == pytest.approx(0.4)
    assert info.size_bytes == (tmp_path / "a.mp4").stat().st_size
    assert info.pixel_aspect is None


def damaged(path, start=0.35, end=0.65, step=400):
    data = bytearray(path.read_bytes())
    for at in range(int(len(data) * start), int(len(data) * end), step):
        data[at : at + 30] = bytes(range(200, 230))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.ts", "h264"), ("a.mp4", "h264")]
)
def test_damaged_frames_are_told_and_the_others_come(tmp_path, name, codec):
    frames, events = read(damaged(clip(tmp_path / name, codec, 60, (160, 120))))
    assert 40 < len(frames) <= 60
    assert 40 < frames[-1].index < 60  # whole clusters of an MKV go unseen
    assert frames[-1].time_s >= 2.3
    assert events
    assert {event.kind for event in events} == {"broken"}
    assert sum(event.frames for event in events) < 40
    assert {event.source for event in events} == {str(tmp_path / name)}
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_file_cut_off_gives_its_frames_and_says_so(tmp_path, name):
    path = clip(
        tmp_path / name, frames=100, size=(160, 120), muxer={"movflags": "faststart"} if name == "a.mp4" else {}
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, events = read(path)
    assert 20 < len(frames) < 80
    assert "cut off" in events[-1].message
    if name != "a.mkv":  # which does not say how many frames it has
        assert events[-1].frames == pytest.approx(100 - len(frames), abs=2)  # some of a frame may be there


def test_frames_that_an_edit_list_hides_are_no_damage(tmp_path):
    path = clip(tmp_path / "a.mp4", "h264", frames=50, bf="0")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16  # where in the track the edit begins
    data[at : at + 4] = struct.pack(">i", struct.unpack_from(">i", data, at)[0] + 20 * 12800 // 25)
    path.write_bytes(data)
    frames, events = read(path)
    assert not events
    assert len(frames) == 30
    assert frames[0].time_s == 0
    assert differs(frames[0].image, image(20)) < differs(frames[0].image, image(0))


def sound_alone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])


def header_alone(path):
    path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(200))


def without_index(path):
    clip(path)
    path.write_bytes(path.read_bytes()[:600])


def playlist(path):
    path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/hostname\n#EXT-X-ENDLIST\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (sound_alone, "sound but no video"),
        (header_alone, "cannot be opened|no video"),
        (without_index, "no video|cannot be opened"),
        (playlist, "cannot be opened"),
        (lambda path: path.touch(), "The file is empty"),
        (str, "No such file"),
        (lambda path: path.mkdir(), "a folder"),
    ],
)
def test_what_is_no_video(tmp_path, make, message):
    path = tmp_path / "a.mp4"
    make(path)
    with pytest.raises(InputDataError, match=message) as caught:
        read(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_a_fifo_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(InputDataError, match="FIFO"):
        read(tmp_path / "a.mp4")


def test_pixel_limit(tmp_path, monkeypatch):
    path = clip(tmp_path / "a.mp4")
    monkeypatch.setenv("RTMO_DEPLOY_MAX_PIXELS", str(64 * 48))
    assert len(read(path)[0]) == 10
    monkeypatch.setenv("RTMO_DEPLOY_MAX_PIXELS", str(64 * 48 - 1))
    with pytest.raises(InputDataError, match="64x48 = 3,072 pixels"):
        read(path)


@pytest.mark.parametrize("name", ["a:b.mp4", "concat:x.mp4", "%03d.mp4", "ü\udcff.mp4", "a\nb.mp4", "q?x=1#y.mp4"])
def test_odd_names(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(clip(tmp_path / "plain.mp4").read_bytes())
    frames, _ = read(path)
    assert len(frames) == 10
    assert frames[0].source == str(path)


def test_frames_are_freed_at_once(tmp_path):
    """Without the garbage collector: cycles would hold the memory of hundreds of frames."""
    path = clip(tmp_path / "a.mp4", frames=60)
    read(path)
    gc.collect()
    gc.disable()
    try:
        for _ in open_source(Source(str(path), "video"), on_event=print, stop=threading.Event()):
            pass
        assert gc.collect() < 60
    finally:
        gc.enable()


def test_stop_ends_it(tmp_path):
    stop = threading.Event()
    frames = open_source(Source(str(clip(tmp_path / "a.mp4")), "video"), on_event=print, stop=stop)
    next(frames)
    stop.set()
    assert list(frames) == []


def test_hardware_decoder_that_is_not_there(tmp_path, caplog):
    path = clip(tmp_path / "a.mp4")
    with pytest.raises(SetupError, match="'warp' cannot be used"):
        read(path, hwaccel="warp")
    with caplog.at_level("INFO"):
        assert len(read(path, hwaccel="auto")[0]) == 10
    assert "decoded" in caplog.text


def test_without_pyav(tmp_path, monkeypatch):
    path = clip(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rtmo-deploy\[video\]'"):
        read(path)
