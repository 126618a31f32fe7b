"""Small servers for tests: RTSP (MPEG-TS over RTP over TCP) and HTTP (MPEG-TS, MJPEG, one image)."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import struct
import threading
import time

import av
import numpy as np

PACKET = 188
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track0\r\n"


def transport_stream(frames=40, size=(64, 48), rate=20):
    """MPEG-TS bytes of a small video of key frames alone."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"g": "1"})
        stream.width, stream.height = size
        for number in range(frames):
            image = np.full((size[1], size[0], 3), number * 5 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    return buffer.getvalue()


class Server:
    """Answers each connection in a thread by ``serve(connection)``; ``kill`` cuts all of them."""

    def __init__(self, serve, port=0):
        self.serve = serve
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with contextlib.suppress(OSError, ValueError), connection:
            self.serve(connection)

    def kill(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def rtsp(data, seconds=2.0):
    """What an RTSP server does with a connection: plays ``data`` over and over, one round in ``seconds``."""

    def serve(connection):
        reader = connection.makefile("rb")
        while request := read_request(reader):
            method, sequence = request[0].split()[0], next(x for x in request if x.lower().startswith("cseq"))
            head, body = [f"RTSP/1.0 200 OK\r\n{sequence}", "Session: 1"], ""
            if method == "OPTIONS":
                head.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif method == "DESCRIBE":
                body = SDP
                head += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            elif method == "SETUP":
                head.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            connection.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())
            if method == "PLAY":
                play(connection, data, seconds)

    return serve


def play(connection, data, seconds):
    chunk = 7 * PACKET
    pause = seconds * chunk / len(data)
    for number in itertools.count():
        at = number * chunk % (len(data) // chunk * chunk)
        payload = data[at : at + chunk]
        packet = struct.pack("!BBHII", 0x80, 33, number & 0xFFFF, int(number * pause * 90000) & 0xFFFFFFFF, 1) + payload
        connection.sendall(struct.pack("!cBH", b"$", 0, len(packet)) + packet)
        time.sleep(pause)


def http(kind, parts, pause=0.0, *, length=None):
    """What an HTTP server does with a connection: sends ``parts`` of the content type ``kind``, and closes."""
    more = "" if length is None else f"Content-Length: {length}\r\n"

    def serve(connection):
        read_request(connection.makefile("rb"))
        connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\n{more}\r\n".encode())
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)

    return serve


def read_request(reader):
    lines = []
    while (line := reader.readline().decode("latin-1").strip()) or not lines:
        if not line:
            return []
        lines.append(line)
    return lines
