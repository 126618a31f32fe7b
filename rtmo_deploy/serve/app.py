"""The server's routes. They are made inside functions, so that this module can be imported without FastAPI.

Annotations are values here, not text: FastAPI reads them, and what they name exists inside the functions only.
"""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import cv2

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import MissingDependencyError, RtmoDeployError, UsageError
from rtmo_deploy.files import UnreadableError
from rtmo_deploy.plain import parse_json
from rtmo_deploy.serve.batcher import BusyError
from rtmo_deploy.serve.gate import Gate
from rtmo_deploy.serve.log import LOG
from rtmo_deploy.serve.models import VERSION, Pipeline, TensorModel
from rtmo_deploy.serve.options import MAX_JSON_BYTES, ServeOptions
from rtmo_deploy.serve.protocol import EXTENSIONS, LENGTH_HEADER, answer, parse_inference
from rtmo_deploy.serve.refusals import RefusedError, refusal_of
from rtmo_deploy.serve.service import Found, Service, Wanted
from rtmo_deploy.serve.stream import follow
from rtmo_deploy.web import content_security_policy, page

if TYPE_CHECKING:
    from fastapi import Response

#: Who is drawn unless asked otherwise: a model's own threshold of 0.1 is for measuring AP.
_DRAW_THR: Final = 0.5
#: Parts of a multipart form, and bytes of those that are no files.
_PARTS, _PART_BYTES = 8, 64 * 1024
_FILE: Final = {"type": "string", "format": "binary"}
_BASE64: Final = {"type": "string", "description": "The bytes of the file in base64."}
#: What the addresses of images and of cameras take.
_PREDICT: Final = ("score_thr", "nms_thr", "kpt_thr", "max_people", "draw")
_STREAM: Final = ("score_thr", "track", "smooth")


def _body(**kinds: Any) -> dict[str, Any]:
    """OpenAPI's description of a body that is read by hand."""
    content = {kind.replace("__", "/").replace("_", "-"): {"schema": schema} for kind, schema in kinds.items()}
    return {"requestBody": {"required": True, "content": content}}


def _answers(words: str, *kinds: str) -> Any:
    return {200: {"content": {kind: {} for kind in kinds}, "description": words}}


_IMAGE_BODY: Final = _body(
    application__octet_stream=_FILE,
    multipart__form_data={"type": "object", "required": ["image"], "properties": {"image": _FILE}},
    application__json={"type": "object", "required": ["image"], "properties": {"image": _BASE64}},
)
_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "The request or the image cannot be used."},
    401: {"description": "The API key is missing or wrong."},
    403: {"description": "A web page of another site asks."},
    404: {"description": "There is no such path, model or version."},
    405: {"description": "The path takes another method."},
    408: {"description": "The request did not arrive in time."},
    413: {"description": "The request or the image is too large."},
    415: {"description": "The request is compressed."},
    503: {"description": "The server is busy; Retry-After says when to come back."},
}


def make_app(service: Service, options: ServeOptions, key: str | None) -> Gate:
    """The ASGI application that serves a model.

    Raises:
        MissingDependencyError: FastAPI is missing.
    """
    try:
        from fastapi import FastAPI
    except ImportError as error:
        raise MissingDependencyError("fastapi", purpose="Serving a model", extra="serve") from error

    @asynccontextmanager
    async def working(_: FastAPI) -> AsyncIterator[None]:
        async with service.working():
            yield

    # Pages of documentation load scripts from elsewhere; redirects repeat whatever host a client names.
    nowhere: Any = {"docs_url": None, "redoc_url": None, "redirect_slashes": False}
    app = FastAPI(title="rtmo-deploy", version=__version__, lifespan=working, responses=_REFUSALS, **nowhere)
    _add_errors(app)
    _add_health(app, service)
    _add_protocol(app, service, options)
    _add_images(app, service)
    _add_page(app, service, auth=key is not None)
    return Gate(app, service, options, key)


def _add_errors(app: Any) -> None:
    """Every error becomes a JSON document; what was not expected is logged."""
    from fastapi import Request, Response
    from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    async def respond(request: Any, refused: RefusedError) -> Response | None:
        body = refused.body(request.scope["path"])
        response = Response(body, refused.status, headers=refused.headers, media_type="application/json")
        if request.scope["type"] == "http":
            return response
        await request.send_denial_response(response)
        return None

    async def known(request: Any, error: Exception) -> Response | None:
        if isinstance(error, BusyError):
            request.app.state.metrics.rejected.labels(error.reason).inc()
        return await respond(request, refusal_of(error))

    async def unknown(request: Request, error: Exception) -> Response | None:
        LOG.error("%s", error, exc_info=error)
        return await respond(request, refusal_of(error))

    async def http(request: Any, error: Exception) -> Response | None:
        assert isinstance(error, HTTPException)
        kind = {404: "NotFoundError", 405: "MethodError"}.get(error.status_code, "UsageError")
        finding = f"{error.detail}: {request.scope.get('method', 'WebSocket')} {request.scope['path'][:200]}."
        refused = RefusedError(error.status_code, finding, kind=kind)
        refused.headers.update(error.headers or {})
        return await respond(request, refused)

    async def invalid(request: Any, error: Exception) -> Response | None:
        assert isinstance(error, RequestValidationError | WebSocketRequestValidationError)
        first = error.errors()[0]
        return await respond(request, RefusedError(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}."))

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    handlers: dict[type[Exception], Any] = {
        BusyError: known,
        RefusedError: known,
        RtmoDeployError: known,
        HTTPException: http,
    }
    handlers |= {RequestValidationError: invalid, WebSocketRequestValidationError: invalid}
    handlers |= {ClientDisconnect: gone, Exception: unknown}
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _add_protocol(app: Any, service: Service, options: ServeOptions) -> None:
    """The Open Inference Protocol, version 2."""
    from fastapi import Request, Response

    models: dict[str, TensorModel | Pipeline] = {options.name: TensorModel(service)}
    models[f"{options.name}_pipeline"] = Pipeline(service)
    places = ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"]

    def find(model: str, version: str) -> TensorModel | Pipeline:
        if model not in models:
            raise RefusedError(
                404, f"There is no model called '{model[:100]}'.", f"It is called {options.name}.", kind="NotFoundError"
            )
        if version != VERSION:
            raise RefusedError(
                404, f"There is no version '{version[:100]}'.", f"It is version {VERSION}.", kind="NotFoundError"
            )
        return models[model]

    async def server() -> dict[str, Any]:
        return {"name": "rtmo-deploy", "version": __version__, "extensions": list(EXTENSIONS)}

    async def metadata(model: str, version: str = VERSION) -> dict[str, Any]:
        return {"name": model, "versions": [VERSION], **find(model, version).metadata()}

    async def model_ready(model: str, version: str = VERSION) -> Response:
        find(model, version)
        return _state("ready", yes=service.ready)

    async def infer(request: Request, model: str, version: str = VERSION) -> Response:
        served = find(model, version)
        body = await request.body()
        with service.batcher.slot() as slot:
            length = request.headers.get(LENGTH_HEADER)
            spec = (served.inputs, served.outputs)
            inference = await service.aside(parse_inference, body, length, *spec, max_json=MAX_JSON_BYTES)
            outputs, request.state.told["batch"] = await served.infer(slot, inference.inputs)
            content, headers = await service.aside(answer, inference, outputs, model=model, version=VERSION)
        return Response(content, headers=headers)

    for place in ("/v2", "/v2/"):
        app.add_api_route(place, server, summary="What the server is", include_in_schema=place == "/v2")
    body: Any = {"openapi_extra": _body(application__json={"type": "object"}, application__octet_stream=_FILE)}
    body["responses"] = _answers("The outputs.", "application/json", "application/octet-stream")
    for place in places:
        app.add_api_route(place, metadata, summary="Inputs and outputs of the model")
        app.add_api_route(f"{place}/ready", model_ready, summary="Whether the model takes work")
        app.add_api_route(f"{place}/infer", infer, methods=["POST"], summary="Run a model on tensors", **body)


def _state(name: str, *, yes: bool) -> "Response":
    from fastapi import Response

    return Response(json.dumps({name: yes}), 200 if yes else 503, media_type="application/json")


def _add_health(app: Any, service: Service) -> None:
    """What an orchestrator asks."""
    from fastapi import Response

    async def live() -> Response:
        return _state("live", yes=service.alive)

    async def ready() -> Response:
        return _state("ready", yes=service.ready)

    app.add_api_route("/v2/health/live", live, summary="Whether the server works")
    app.add_api_route("/v2/health/ready", ready, summary="Whether it takes work")


def _add_images(app: Any, service: Service) -> None:
    """``/predict`` and ``/stream``."""
    from fastapi import Query, Request, Response, WebSocket

    share = Query(ge=0, le=1, allow_inf_nan=False)
    count = Query(ge=1, le=100_000)

    async def predict(
        request: Request,
        score_thr: Annotated[float | None, share] = None,
        nms_thr: Annotated[float | None, share] = None,
        kpt_thr: Annotated[float | None, share] = None,
        max_people: Annotated[int | None, count] = None,
        draw: bool = False,
    ) -> Response:
        start = time.perf_counter()
        _require_known(request.query_params, _PREDICT)
        thresholds: Any = {"score_thr": score_thr, "nms_thr": nms_thr, "max_people": max_people}
        if not draw:
            thresholds["kpt_thr"] = kpt_thr
        wanted = Wanted.of(service.artifact, thresholds)
        body = await request.body()
        received = time.perf_counter()
        with service.batcher.slot() as slot:
            data = await service.aside(_image_of, body, request.headers)
            found = await service.find(slot, data, wanted)
            poses = wanted.choose(found.poses)
            service.metrics.people.inc(len(poses))
            timings = {"receive": round((received - start) * 1000, 3), **found.timings_ms}
            content = b""
            if draw:
                begin = time.perf_counter()
                thr = _DRAW_THR if score_thr is None else score_thr
                how = {"score_thr": thr, "kpt_thr": 0.3 if kpt_thr is None else kpt_thr}
                content = await service.aside(_drawn, found, poses, data, how)
                timings["draw"] = round((time.perf_counter() - begin) * 1000, 3)
        timings["total"] = round((time.perf_counter() - start) * 1000, 3)
        service.metrics.timed(timings)
        request.state.told.update(people=len(poses), batch=found.batch, timings_ms=timings)
        if draw:
            return Response(content, media_type="image/png")
        document = service.document(poses, found.image_hw, timings_ms=timings, batch=found.batch)
        return Response(json.dumps(document, separators=(",", ":"), allow_nan=False), media_type="application/json")

    app.add_api_route(
        "/predict",
        predict,
        methods=["POST"],
        summary="Find the people in an image",
        openapi_extra=_IMAGE_BODY,
        responses=_answers("People, or a drawn image.", "application/json", "image/png"),
    )

    async def stream(
        socket: WebSocket,
        score_thr: Annotated[float | None, share] = None,
        track: bool = False,
        smooth: bool = False,
    ) -> None:
        _require_known(socket.query_params, _STREAM)
        await follow(socket, service, score_thr, track=track or smooth, smooth=smooth)

    app.add_api_websocket_route("/stream", stream)


def _add_page(app: Any, service: Service, *, auth: bool) -> None:
    """What people and other programs look at: the page, the model's description, metrics."""
    from fastapi import Response
    from fastapi.responses import PlainTextResponse

    app.state.metrics = service.metrics
    html = page("serve")
    policy = {"content-security-policy": content_security_policy(html), "referrer-policy": "no-referrer"}

    async def home() -> Response:
        return Response(html, media_type="text/html; charset=utf-8", headers=policy)

    async def model() -> dict[str, Any]:
        return {**service.describe(), "auth": auth}

    async def metrics() -> Response:
        content, kind = service.metrics.text()
        return Response(content, headers={"content-type": kind})

    app.add_api_route("/", home, include_in_schema=False)
    app.add_api_route("/model", model, summary="The model, its keypoints and limits")
    text: Any = {"response_class": PlainTextResponse}
    app.add_api_route("/metrics", metrics, summary="Figures for Prometheus", **text)


def _require_known(query: Any, names: tuple[str, ...]) -> None:
    """Refuse a query with parameters that nobody reads, or with one twice."""
    given = [name for name, _ in query.multi_items()]
    for name in given:
        if name not in names:
            raise RefusedError(400, f"There is no parameter '{name[:100]}'.", f"There are {', '.join(names)}.")
        if given.count(name) > 1:
            raise RefusedError(400, f"The parameter {name} is given {given.count(name)} times.", "Give it once.")


def _require_none(names: Any) -> None:
    """Refuse parameters in the body."""
    for name in _PREDICT:
        if name in names:
            remedy = f"Give it in the address: /predict?{name}=VALUE."
            raise RefusedError(400, f"The parameter {name} is not read from the body.", remedy)


def _image_of(body: bytes, headers: Any) -> bytes:
    """The bytes of the image file in a request: raw, in a form, or in JSON as base64. It may take a while."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return asyncio.run(_file_in(body, headers))
    if kind != "application/json":
        return body
    if len(body) > MAX_JSON_BYTES:
        finding = f"The JSON has {len(body):,} bytes; at most {MAX_JSON_BYTES:,} are read."
        raise RefusedError(413, finding, "Send the file itself.", kind="TooLargeError")
    try:
        document = parse_json(body)
    except UnreadableError as error:
        raise RefusedError(400, f"The request cannot be read: {error}.") from None
    text = document.get("image") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise RefusedError(400, "The JSON has no image.", 'Send {"image": "..."} with the file in base64.')
    _require_none(document)
    text = "".join(text.split())  # base64 as e-mail has it comes in lines
    try:
        return base64.b64decode(text.partition("base64,")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        remedy = "Encode it with letters, digits, '+' and '/', and '=' at the end."
        raise RefusedError(400, f"The image is not in base64: {error}.", remedy) from error


async def _file_in(body: bytes, headers: Any) -> bytes:
    """The file in a form."""
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def pieces() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _PART_BYTES):  # the parser remembers every find in a piece
            yield body[start : start + _PART_BYTES]

    parser = MultiPartParser(headers, pieces(), max_files=1, max_fields=_PARTS, max_part_size=_PART_BYTES)
    parser.spool_max_size = len(body) + 1  # nothing is written to disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        finding = f"The form cannot be read: {str(error).rstrip('.')}."
        raise RefusedError(400, finding, "Send one image as a file.") from error
    _require_none(form)
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if len(files) != 1:
        raise RefusedError(400, f"The form has {len(files)} files.", "Send one image as a file.")
    return await files[0].read()


def _drawn(found: Found, poses: Any, data: bytes, how: dict[str, float]) -> bytes:
    """The image with the people drawn on it, as PNG."""
    image = data if found.pixels is None else found.pixels
    done, png = cv2.imencode(".png", poses.plot(image, **how), (cv2.IMWRITE_PNG_COMPRESSION, 1))
    if not done:
        raise UsageError("The image cannot be written as PNG.")
    return png.tobytes()
