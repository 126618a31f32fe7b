"""Small videos for tests, made with PyAV."""

from __future__ import annotations

import struct
import threading
from fractions import Fraction

import av
import numpy as np

from rtmo_deploy.media import Source, open_source

ENCODERS = {"h264": "libx264", "vp9": "libvpx-vp9"}


def image(number, size=(64, 48)):
    """A pattern of blocks that tells the number of its frame by its position."""
    width, height = size
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.roll(np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width], number, axis=1)


def clip(path, codec="mpeg4", frames=10, size=(64, 48), *, stamps=None, base=Fraction(1, 25), sound=None, **options):
    """Write a video; ``stamps`` are its timestamps in units of ``base``."""
    pix_fmt = options.pop("pix_fmt", "yuv420p")
    muxer = options.pop("muxer", {})
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(ENCODERS.get(codec, codec), rate=25, options={"g": "5", **options})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.time_base = base
        if codec != "mpeg4":
            stream.codec_context.time_base = base
        audio = container.add_stream(sound, rate=48000, layout="stereo") if sound else None
        stamps = list(stamps or range(frames))
        for number in range(len(stamps)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image(number, size)), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            mux(container, stream, stream.encode(frame), stamps, base)
        mux(container, stream, stream.encode(None), stamps, base)
        for at in range(0, int(48000 * (stamps[-1] + 1) * base) if audio else 0, 1024):
            planar = audio.format.is_planar
            zeros = np.zeros((2, 1024) if planar else (1, 2048), np.float32 if planar else np.int16)
            silence = av.AudioFrame.from_ndarray(zeros, format=audio.format.name, layout="stereo")
            silence.sample_rate, silence.pts, silence.time_base = 48000, at, Fraction(1, 48000)
            container.mux(audio.encode(silence))
        if audio:
            container.mux(audio.encode(None))
    return path


def mux(container, stream, packets, stamps, base):
    for packet in packets:
        if stream.codec_context.name == "mpeg4":  # which has a clock of its own; it keeps the order
            packet.pts = packet.dts = stamps[packet.pts]
            packet.time_base, packet.stream = base, stream
        container.mux(packet)


def turned(path, matrix):
    """Write a display matrix (a, b, c, d) into the track's header of an MP4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def read(path, kind="video", **options):
    """All frames and events of a file."""
    events = []
    source = Source(str(path), kind)
    return list(open_source(source, on_event=events.append, stop=threading.Event(), **options)), events
