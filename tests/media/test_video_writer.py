"""Writing videos: what is read again is what was written, when it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import clip, image, read
from hypothesis import given
from hypothesis import strategies as st

from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.media import VideoInfo, VideoWriter, video_info

STAMPS = [90, 91, 95, 140, 141, 300]


def differs(one, other):
    return np.abs(one.astype(int) - other.astype(int)).mean()


def fail(path, error):
    """Write seven frames, then fail."""
    with VideoWriter(path) as writer:
        for number in range(7):
            writer.write(image(number))
        raise error


def sound_of(path):
    """Times of the sound's packets, and their bytes."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return [float(packet.pts * packet.time_base) for packet in packets], [bytes(packet) for packet in packets]


@pytest.mark.parametrize(
    ("name", "codec", "named", "apart"),
    [
        ("a.mp4", None, "mpeg4", 0),
        ("a.mov", None, "mpeg4", 0),
        ("a.mkv", None, "mpeg4", 6e-4),
        ("a.webm", None, "vp9", 6e-4),
        ("a.avi", None, "mpeg4", 0.08),
        ("a.mp4", "av1", "av1", 0),
        ("a.MP4", "vp9", "vp9", 0),
    ],
)
def test_frames_and_their_times_are_kept(tmp_path, name, codec, named, apart):
    """At odd sizes and a variable frame rate."""
    like = VideoInfo("x", 63, 47, "h264", Fraction(1, 600), fps=Fraction(30))
    with VideoWriter(tmp_path / name, like, codec=codec) as writer:
        for number, stamp in enumerate(STAMPS):
            writer.write(image(number, (63, 47)), (stamp - 90) / 600)
        assert writer.frames == len(STAMPS)
        assert not (tmp_path / name).exists()
    frames, events = read(tmp_path / name)
    assert not events
    assert [path.name for path in tmp_path.iterdir()] == [name]
    info = video_info(tmp_path / name)
    assert (info.codec, info.width, info.height) == (named, 63, 47)
    assert len(frames) == len(STAMPS)
    for number, (frame, stamp) in enumerate(zip(frames, STAMPS, strict=True)):
        assert abs(frame.time_s - (stamp - 90) / 600) <= apart
        assert differs(frame.image, image(number, (63, 47))) < 25  # chroma of sharp blocks
    smooth = np.full((48, 64, 3), (30, 90, 200), np.uint8)
    with VideoWriter(tmp_path / f"colour{name}", codec=codec) as writer:
        writer.write(smooth)
    assert differs(read(tmp_path / f"colour{name}")[0][0].image, smooth) < 3


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root: SVT-AV1 does it for root alone")
def test_av1_does_not_run_before_all_other_programs(tmp_path):
    with VideoWriter(tmp_path / "a.mkv", codec="av1") as writer:
        writer.write(image(0, (64, 48)))
        policies = {os.sched_getscheduler(int(task.name)) for task in Path("/proc/self/task").iterdir()}
    assert policies == {os.SCHED_OTHER}


@given(steps=st.lists(st.integers(1, 10**6), min_size=1, max_size=30), base=st.sampled_from([600, 12800, 90000, 1001]))
def test_mp4_keeps_any_timestamps_exactly(tmp_path_factory, steps, base):
    path = tmp_path_factory.mktemp("any") / "a.mp4"
    times = [float(Fraction(int(stamp), base)) for stamp in np.cumsum([0, *steps])]
    with VideoWriter(path, VideoInfo("x", 16, 16, "h264", Fraction(1, base))) as writer:
        for time_s in times:
            writer.write(np.zeros((16, 16, 3), np.uint8), time_s)
    assert [frame.time_s for frame in read(path)[0]] == times


def test_without_times_the_rate_is_constant(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", fps=Fraction(30000, 1001)) as writer:
        for number in range(5):
            writer.write(image(number))
    times = [frame.time_s for frame in read(tmp_path / "a.mp4")[0]]
    assert times == pytest.approx([n * 1001 / 30000 for n in range(5)], abs=2e-5)
    assert float(video_info(tmp_path / "a.mp4").fps) == pytest.approx(29.97, abs=0.01)


def test_times_that_do_not_rise_lose_no_frame(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for time_s in (0, 0, 0.5, 0.4, 1):
            writer.write(image(0), time_s)
    times = [frame.time_s for frame in read(tmp_path / "a.mp4")[0]]
    assert len(times) == 5
    assert times == sorted(set(times))
    assert times[-1] == 1


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.mov", "b.avi"])
def test_sound_is_copied_as_far_as_the_frames_go(tmp_path, name):
    source = clip(tmp_path / "a.mp4", stamps=range(50, 90), sound="aac")
    with VideoWriter(tmp_path / name, video_info(source)) as writer:
        for frame in read(source)[0][:20]:
            writer.write(frame.image, frame.time_s)
    times, data = sound_of(tmp_path / name)
    first_times, first = sound_of(source)
    offset = next(number for number, time_s in enumerate(first_times) if time_s >= 2)  # where the frames begin
    assert data == first[offset : offset + len(data)]
    assert times[0] == pytest.approx(first_times[offset] - 2, abs=0.025)
    assert 0.75 < times[-1] < 0.81


def test_sound_that_does_not_fit_is_told(tmp_path, caplog):
    source = clip(tmp_path / "a.mp4", sound="aac")
    with VideoWriter(tmp_path / "a.webm", video_info(source)) as writer:
        writer.write(image(0), 0)
    assert "sound is not copied" in caplog.text
    assert not video_info(tmp_path / "a.webm").has_audio
    with VideoWriter(tmp_path / "b.mp4", video_info(source), audio=False) as writer:
        writer.write(image(0), 0)
    assert not video_info(tmp_path / "b.mp4").has_audio


def test_damaged_sound_does_not_cost_the_video(tmp_path, caplog):
    def damaged():
        yield from ()
        raise av.FFmpegError(errno.EINVAL, "Invalid argument")

    source = clip(tmp_path / "a.mp4", sound="aac")
    with VideoWriter(tmp_path / "b.mp4", video_info(source)) as writer:
        writer.write(image(0), 0)
        writer._sound, writer._waiting = damaged(), None
        writer.write(image(1), 0.04)
        writer.write(image(2), 0.08)
    assert "The sound ends at 0.0 s (invalid argument)" in caplog.text
    assert len(read(tmp_path / "b.mp4")[0]) == 3


@pytest.mark.parametrize(("name", "copied"), [("b.mp4", False), ("b.mov", True), ("b.avi", True), ("b.mkv", True)])
def test_uncompressed_sound(tmp_path, name, copied):
    source = clip(tmp_path / "a.mkv", sound="pcm_s16le")
    with VideoWriter(tmp_path / name, video_info(source)) as writer:
        for frame in read(source)[0]:
            writer.write(frame.image, frame.time_s)
    assert video_info(tmp_path / name).has_audio == copied


def test_sound_of_an_unknown_codec(tmp_path, caplog):
    source = clip(tmp_path / "a.mkv", sound="pcm_s16le")
    source.write_bytes(source.read_bytes().replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    with VideoWriter(tmp_path / "b.mkv", video_info(source)) as writer:
        writer.write(image(0), 0)
    assert "sound is not copied (its codec is not known)" in caplog.text
    assert len(read(tmp_path / "b.mkv")[0]) == 1


def test_the_source_of_the_sound_is_gone(tmp_path, caplog):
    source = clip(tmp_path / "a.mp4", sound="aac")
    info = video_info(source)
    source.unlink()
    with VideoWriter(tmp_path / "b.mp4", info) as writer:
        writer.write(image(0), 0)
    assert "sound is not copied" in caplog.text
    assert len(read(tmp_path / "b.mp4")[0]) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_same_frames_same_bytes(tmp_path, name):
    for folder in ("1", "2"):
        with VideoWriter(tmp_path / folder / name) as writer:
            for number in range(8):
                writer.write(image(number))
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_an_interrupt_leaves_a_whole_video(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "a.mp4", KeyboardInterrupt)
    assert len(read(tmp_path / "a.mp4")[0]) == 7
    assert len(list(tmp_path.iterdir())) == 1


def test_another_error_keeps_what_there_is_under_another_name(tmp_path, caplog):
    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "a.mp4", ZeroDivisionError)
    assert (tmp_path / "a.mp4").read_bytes() == b"before"
    assert len(read(tmp_path / "a.partial.mp4")[0]) == 7
    assert len(list(tmp_path.iterdir())) == 2
    assert "a.partial.mp4" in caplog.text


def test_no_frames_no_file(tmp_path):
    with VideoWriter(tmp_path / "a.mp4"):
        pass
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "a.mp4"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_frames_of_another_size_are_stretched(tmp_path, caplog):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(image(0))
        writer.write(image(0, (32, 32)))
        writer.write(image(0, (80, 20)))
    assert [frame.image.shape for frame in read(tmp_path / "a.mp4")[0]] == [(48, 64, 3)] * 3
    assert caplog.text.count("stretched to 64x48") == 1


def test_pixels_that_are_not_square(tmp_path):
    like = VideoInfo("x", 64, 48, "h264", Fraction(1, 25), pixel_aspect=Fraction(16, 11))
    with VideoWriter(tmp_path / "a.mp4", like) as writer:
        writer.write(image(0), 0)
    assert video_info(tmp_path / "a.mp4").pixel_aspect == Fraction(16, 11)


def test_what_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"cannot be written as '\.gif'"):
        VideoWriter(tmp_path / "a.gif")
    with pytest.raises(SetupError, match="mpeg4 in webm"), VideoWriter(tmp_path / "a.webm", codec="mpeg4") as writer:
        writer.write(image(0))
    (tmp_path / "file").touch()
    with (
        pytest.raises(SetupError, match="could not be written"),
        VideoWriter(tmp_path / "file" / "a.mp4") as writer,
    ):
        writer.write(image(0))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_disk_is_full(tmp_path, monkeypatch):
    def full(writer, packets):
        if packets and writer.frames > 1:
            raise av.FFmpegError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(VideoWriter, "_mux", full)
    with pytest.raises(SetupError, match="no space left"):
        fail(tmp_path / "a.mp4", ZeroDivisionError)
    assert not (tmp_path / "a.mp4").exists()


def test_memory_stays_flat(tmp_path):
    """In a process of its own: resident memory after 100 frames and after 600."""
    program = """
import sys, resource, numpy as np
from rtmo_deploy.media import VideoWriter
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 2**20
with VideoWriter(sys.argv[1]) as writer:
    image = np.zeros((240, 320, 3), np.uint8)
    for number in range(600):
        image[:] = number % 250
        writer.write(image, number / 25)
        if number == 100: early = resident()
    print(resident() - early)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.mp4")], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 20
