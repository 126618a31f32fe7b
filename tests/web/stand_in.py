"""A small server with the interface that the page ``serve`` talks to; a real model finds the people."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
import time

import cv2
import numpy as np
import pytest

from rtmo_deploy.web import content_security_policy, page

fastapi = pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")


def refused(status, kind, message, remedy, **headers):
    error = {"type": kind, "message": message, "remedy": remedy}
    return fastapi.responses.JSONResponse({"error": error}, status, headers)


class StandIn:
    """Serves the page under ``/pose/``.

    ``key`` is the API key, None for none; ``busy`` is how many requests are answered 503 first, and ``unread`` the
    frames that are not used.
    """

    def __init__(self, model, *, key=None, busy=0, unread=()):
        self.model, self.key, self.busy, self.unread = model, key, busy, set(unread)
        self.asked, self.frames, self.sizes = [], 0, set()

    def facts(self):
        return {
            "schema_version": 1,
            "name": "a model",
            "file": "n.onnx",
            "backend": "onnxruntime",
            "device": "cpu",
            "precision": "fp32",
            "input_hw": [256, 256],
            "skeleton": self.model.artifact.skeleton.to_dict(),
            "score_thr": 0.1,
            "limits": {"max_bytes": 2_000_000, "max_pixels": 10_000_000},
            "note": "A note <of> the model.",
            "auth": self.key is not None,
        }

    def find(self, data, query, **more):
        started = time.perf_counter()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            return None
        people = self.model(image, score_thr=float(query["score_thr"])).to_dict()
        for index, person in enumerate(people):
            if "frame" in more:
                person["track_id"] = index + 1 if query["track"] == "1" else None
        took = 1000 * (time.perf_counter() - started)
        return {
            "schema_version": 1,
            "model": "a model",
            "skeleton": self.model.artifact.skeleton.name,
            "width": image.shape[1],
            "height": image.shape[0],
            "people": people,
            "timings_ms": {"decode": 1.0, "queue": 0.5, "inference": took, "total": took + 1.5},
            "batch": 1,
            **more,
        }

    def check(self, request):
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return refused(401, "unauthorised", "A key is needed.", "Send it.")
        if self.busy:
            self.busy -= 1
            return refused(503, "busy", "Too many requests.", "Try again.", **{"Retry-After": "0"})
        return None

    def app(self):
        app = fastapi.FastAPI()

        @app.get("/pose/")
        def get_page():
            html = page("serve")
            return fastapi.responses.HTMLResponse(
                html, headers={"Content-Security-Policy": content_security_policy(html)}
            )

        @app.get("/pose/model")
        def get_model(request: fastapi.Request):
            return self.check(request) or fastapi.responses.JSONResponse(self.facts())

        @app.post("/pose/predict")
        async def predict(request: fastapi.Request):
            answer = self.check(request)
            if answer:
                return answer
            self.asked.append(dict(request.query_params))
            found = await asyncio.to_thread(self.find, await request.body(), request.query_params)
            return found or refused(422, "unreadable", "It is no image.", "Send a JPEG.")

        @app.websocket("/pose/stream")
        async def stream(socket: fastapi.WebSocket):
            offered = [name.strip() for name in socket.headers.get("sec-websocket-protocol", "").split(",")]
            text = base64.urlsafe_b64encode((self.key or "").encode()).decode().rstrip("=")
            if self.key is not None and f"key.{text}" not in offered:
                await socket.close(1008)
                return
            await socket.accept("rtmo")
            self.asked.append(dict(socket.query_params))
            with contextlib.suppress(Exception):
                number = 0
                while True:
                    data = await socket.receive_bytes()
                    found = await asyncio.to_thread(self.find, data, socket.query_params, frame=number)
                    self.sizes.add((found["width"], found["height"]))
                    if number in self.unread:
                        error = {"type": "busy", "message": "The frame was not used.", "remedy": ""}
                        found = {"frame": number, "error": error}
                    await socket.send_json(found)
                    number += 1
                    self.frames = number

        return app

    @contextlib.contextmanager
    def running(self):
        """Its address, while it runs."""
        server = uvicorn.Server(
            uvicorn.Config(self.app(), port=0, log_level="error", lifespan="off", ws="websockets-sansio")
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/pose/"
        finally:
            server.should_exit = True
            thread.join(10)
