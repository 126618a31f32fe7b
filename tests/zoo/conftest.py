"""A server on the loopback interface that answers each path by a function, and a cache of its own."""

from __future__ import annotations

import http.server
import os
import threading

import pytest


class Web:
    """What the server answers with, and what it was asked for."""

    def __init__(self, url):
        self.url, self.routes, self.asked, self.headers = url, {}, [], []

    def gives(self, path, content, status=200, **headers):
        """Answer with this content; ``X_Name`` is the header X-Name. A Range is answered."""

        def answer(request):
            start, code = 0, status
            asked = request.headers.get("Range", "")
            if status == 200 and asked and request.headers.get("If-Range") in {None, headers.get("ETag")}:
                start, code = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            request.send_response(code)
            if code == 206:
                request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            for name, value in {"Content_Length": str(len(content) - start), **headers}.items():
                request.send_header(name.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(content[start:])

        self.routes[path] = answer

    def redirects(self, path, to, **headers):
        self.gives(path, b"", 302, Location=to, **headers)


@pytest.fixture
def web(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("RTMO_DEPLOY_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("rtmo_deploy.zoo.transfer._FIRST_PAUSE_S", 0.0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            path = self.path.partition("?")[0]
            state.asked.append(self.path)
            state.headers.append(dict(self.headers))
            if path in state.routes:
                state.routes[path](self)
            else:
                self.send_error(404)

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False

        def handle_error(self, *args):
            """A client that hangs up is no news."""

    with Server(("127.0.0.1", 0), Handler) as httpd:
        state = Web(f"http://127.0.0.1:{httpd.server_address[1]}")
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()
