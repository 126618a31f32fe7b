"""Streams of small servers: reconnecting, timestamps, stopping."""

from __future__ import annotations

import socket
import threading
import time

import cv2
import numpy as np
import pytest
from clips import clip, image
from servers import Server, http, rtsp, transport_stream

from rtmo_deploy.errors import InputDataError
from rtmo_deploy.media import Source, live, open_source


@pytest.fixture(scope="module")
def stream_data():
    return transport_stream()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(live, "_FIRST_PAUSE_S", 0.05)


def opened(address, events, stop, **options):
    return open_source(Source(address, "live"), on_event=events.append, stop=stop, **options)


def jpeg(value):
    return cv2.imencode(".jpg", np.full((48, 64, 3), value, np.uint8))[1].tobytes()


def test_rtsp_comes_back_after_its_server_was_killed(stream_data):
    events, stop = [], threading.Event()
    with Server(rtsp(stream_data)) as first:
        frames = opened(f"rtsp://user:secret@127.0.0.1:{first.port}/live", events, stop)
        taken = [next(frames) for _ in range(8)]
        assert not events
    second = []

    def restart():
        second.append(Server(rtsp(stream_data), first.port))

    threading.Timer(0.3, restart).start()
    try:
        while "reconnected" not in [event.kind for event in events]:
            taken.append(next(frames))
        taken += [next(frames) for _ in range(4)]
    finally:
        stop.set()
        list(frames)
        while not second:
            time.sleep(0.01)
        second[0].kill()
    assert [event.kind for event in events if event.kind != "broken"] == ["lost", "reconnected"]
    assert "secret" not in "".join(event.message + event.source for event in events)
    assert taken[0].source == f"rtsp://127.0.0.1:{first.port}/live"
    assert [frame.index for frame in taken] == sorted({frame.index for frame in taken})
    times = [frame.time_s for frame in taken]
    assert times[0] == 0
    assert times == sorted(set(times))
    assert times[1] == pytest.approx(0.05)  # 20 frames a second, by the stream's clock
    assert all(frame.image.shape == (48, 64, 3) for frame in taken)


def test_mpegts_over_http_reconnects_and_strides(stream_data):
    events, stop = [], threading.Event()
    with Server(http("video/mp2t", [stream_data])) as server:
        frames = opened(f"http://127.0.0.1:{server.port}/live", events, stop, stride=3)
        taken = [next(frames) for _ in range(20)]
        stop.set()
        assert list(frames) == []
    assert [frame.index for frame in taken][:4] == [0, 3, 6, 9]
    assert taken[1].time_s == pytest.approx(0.15)
    assert [event.kind for event in events][:2] == ["lost", "reconnected"]


def test_mjpeg_over_http_has_the_clocks_time():
    parts = [b"--x\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(value) + b"\r\n" for value in range(0, 250, 10)]
    stop = threading.Event()
    with Server(http("multipart/x-mixed-replace; boundary=x", parts, pause=0.02)) as server:
        frames = opened(f"http://127.0.0.1:{server.port}/video", [], stop)
        taken = [next(frames) for _ in range(10)]
        stop.set()
        assert list(frames) == []
    assert [round(frame.image.mean() / 10) for frame in taken] == list(range(10))
    times = [frame.time_s for frame in taken]
    assert times == sorted(set(times))


def test_an_address_that_answers_an_image_is_an_image():
    with Server(http("image/jpeg", [jpeg(100)])) as server:
        for path, kind in (("snapshot", "live"), ("a.jpg", "image")):
            source = Source(f"http://127.0.0.1:{server.port}/{path}", kind)
            frames = list(open_source(source, on_event=print, stop=threading.Event()))
            assert [(frame.time_s, round(frame.image.mean())) for frame in frames] == [(None, 100)]


@pytest.mark.parametrize("kind", ["live", "video"])
@pytest.mark.parametrize("whole", [True, False])
def test_an_address_that_answers_a_file_ends_with_it(tmp_path, kind, whole):
    data = clip(tmp_path / "a.mkv").read_bytes()
    events = []
    # Without its length the end is an error, as is a connection that is cut.
    with Server(http("video/x-matroska", [data], length=len(data) if whole else None)) as server:
        source = Source(f"http://127.0.0.1:{server.port}/a", kind)
        frames = list(open_source(source, on_event=events.append, stop=threading.Event()))
    assert [frame.index for frame in frames] == list(range(10))
    assert [event.kind for event in events] == ([] if whole else ["broken"])


def test_a_file_that_ends_before_its_first_frame_is_not_damaged_too(tmp_path):
    data = clip(tmp_path / "a.mp4").read_bytes()  # its index is at the end, and this server cannot go there
    events = []
    with Server(http("video/mp4", [data[:900]], length=len(data))) as server:
        source = Source(f"http://127.0.0.1:{server.port}/a.mp4", "video")
        with pytest.raises(InputDataError, match=r"cannot be opened|no frame") as caught:
            next(open_source(source, on_event=events.append, stop=threading.Event()))
    assert not events
    assert "download the file" in caught.value.remedy


@pytest.mark.parametrize("kind", ["live", "video", "image"])
def test_nobody_answers(kind):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputDataError, match=r"cannot be opened|cannot be fetched") as caught:
        next(open_source(Source(f"http://u:pw@127.0.0.1:{port}/a", kind), on_event=print, stop=threading.Event()))
    assert "pw" not in str(caught.value)
    assert "Check the address" in caught.value.remedy


def test_stop_does_not_wait_for_a_silent_server(monkeypatch):
    monkeypatch.setattr("rtmo_deploy.media.video._TIMEOUT_S", 60)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stop = threading.Event()
        frames = opened(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live", [], stop)
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()
        assert list(frames) == []
        assert time.monotonic() - began < 30  # the timeout of the address is 60 s


def test_a_silent_server_is_left_after_the_timeout(monkeypatch):
    monkeypatch.setattr("rtmo_deploy.media.video._TIMEOUT_S", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(InputDataError, match="cannot be opened"),
    ):
        next(opened(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live", [], threading.Event()))


def test_pauses_grow_to_a_limit(monkeypatch):
    pauses = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            if len(pauses) == 14:
                self.set()
            return self.is_set()

    def once(*_args, **_options):
        if pauses:
            raise ConnectionError("nobody there")
        yield 0, 0.0, image(0)
        raise ConnectionError("gone")

    monkeypatch.setattr(live, "_stream", once)
    monkeypatch.setattr(live, "_FIRST_PAUSE_S", 0.5)
    events = []
    assert len(list(opened("rtsp://host/x", events, Stop()))) == 1
    assert [event.kind for event in events] == ["lost"]  # once, however often it is tried
    assert all(min(30, 0.5 * 2**n) / 2 <= pause <= min(30, 0.5 * 2**n) for n, pause in enumerate(pauses))


def test_a_camera_that_is_not_there(monkeypatch):
    with pytest.raises(InputDataError, match=r"Camera 99 cannot be opened"):
        next(opened("99", [], threading.Event()))


def test_a_camera(monkeypatch):
    class Camera:
        def __init__(self, index):
            self.number, self.index = 0, index

        def isOpened(self):  # noqa: N802
            return True

        def grab(self):
            self.number += 1
            return self.number <= 5

        def retrieve(self):
            return True, np.full((4, 4, 3), self.number, np.uint8)

        def release(self):
            self.number = 99

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    events, stop = [], threading.Event()
    frames = opened("/dev/video3", events, stop, stride=2)
    taken = [next(frames) for _ in range(4)]
    stop.set()
    assert [(frame.index, int(frame.image[0, 0, 0])) for frame in taken] == [(0, 1), (2, 3), (4, 5), (5, 1)]
    assert [event.kind for event in events] == ["lost", "reconnected"]


def test_a_server_that_falls_silent_is_lost(stream_data, monkeypatch):
    monkeypatch.setattr("rtmo_deploy.media.video._TIMEOUT_S", (60, 0.5))  # to open it, and to wait for data

    def serve(connection):
        http("video/mp2t", [stream_data])(connection)
        time.sleep(5)

    events, stop = [], threading.Event()
    with Server(serve) as server:
        frames = opened(f"http://127.0.0.1:{server.port}/live", events, stop)
        while "reconnected" not in [event.kind for event in events]:
            next(frames)
        stop.set()
        assert list(frames) == []
    assert [event.kind for event in events][:2] == ["lost", "reconnected"]
    assert "it is opened again" in events[0].message.lower()
