"""Poses over HTTP with Ray Serve: POST the bytes of an image, get what the server answers to POST /predict.

Needs ``pip install 'rtmo-deploy[cpu,ray]' 'ray[serve]'``. In this folder, ``RTMO_MODEL=rtmo-s serve run ray_serve:app``
serves it; ``curl --data-binary @photo.jpg localhost:8000/predict`` asks it.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ray import serve
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.requests import Request

Answer = tuple[int, dict[str, Any]]


@serve.deployment(
    max_ongoing_requests=16,  # in one replica; further ones wait in the proxy
    max_queued_requests=64,  # waiting ones; then the answer is 503
    ray_actor_options={"num_cpus": 1},  # on GPUs: {"num_gpus": 1}
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8},
)
class PoseServer:
    """Holds a model, which Ray copies to as many replicas as the requests need."""

    def __init__(self, model: str) -> None:
        from rtmo_deploy import RTMO

        self._model = RTMO(model, threads=1)

    async def __call__(self, request: Request) -> JSONResponse:
        status, answer = await self._answer(await request.body())
        return JSONResponse(answer, status)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.005)
    async def _answer(self, images: list[bytes]) -> list[Answer]:
        return await asyncio.to_thread(self._answers, images)

    def _answers(self, images: list[bytes]) -> list[Answer]:
        from rtmo_deploy.data.images import TooManyPixelsError
        from rtmo_deploy.errors import InputDataError

        try:
            return [(200, self._document(poses)) for poses in self._model.predict(images)]
        except InputDataError as error:
            if len(images) > 1:  # the others are good
                return [answer for image in images for answer in self._answers([image])]
            told = {"type": type(error).__name__, "message": error.finding, "remedy": error.remedy or None}
            return [(413 if isinstance(error, TooManyPixelsError) else 400, {"error": told})]

    def _document(self, poses: Any) -> dict[str, Any]:
        height, width = poses.image_hw
        head = {"schema_version": 1, "model": self._model.artifact.path.stem, "skeleton": poses.skeleton.name}
        return {**head, "width": width, "height": height, "people": poses.to_dict()}


app = PoseServer.bind(os.environ.get("RTMO_MODEL", "rtmo-n"))
