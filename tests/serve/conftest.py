"""Servers for tests: in a process of their own, and within the test's."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from serving import Served, run_server

from rtmo_deploy.runtime.estimator import RTMO
from rtmo_deploy.serve.options import ServeOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

for _package in ("fastapi", "uvicorn", "websockets", "prometheus_client"):
    pytest.importorskip(_package)


@pytest.fixture(scope="session")
def server(onnx_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with long time limits: a machine that stands still for seconds is no late request."""
    folder = tmp_path_factory.mktemp("server")
    with run_server(onnx_n, folder, "--timeout-s", "60", "--max-pixels", "1000000") as served:
        yield served


@pytest.fixture(scope="session")
def hasty(onnx_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with short time limits."""
    with run_server(onnx_n, tmp_path_factory.mktemp("hasty"), "--timeout-s", "1") as served:
        yield served


@pytest.fixture(scope="session")
def estimator(onnx_n: Path) -> Iterator[RTMO]:
    with RTMO(onnx_n, device="cpu", threads=1) as model:
        yield model


@pytest.fixture(scope="session")
def images(pictures: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in pictures]


@dataclass
class Within:
    """A server in the test's own process, without a network."""

    service: Any
    client: httpx.AsyncClient


@pytest.fixture
def within(estimator: RTMO) -> Callable[..., contextlib.AbstractAsyncContextManager[Within]]:
    """Opens a server in the running event loop: ``async with within(queue=1) as here``."""
    from rtmo_deploy.serve.app import make_app
    from rtmo_deploy.serve.service import Service

    @contextlib.asynccontextmanager
    async def opened(*, key: str | None = None, model: RTMO = estimator, **options: Any) -> AsyncIterator[Within]:
        chosen = ServeOptions(**options)
        service = Service(model, chosen)
        transport = httpx.ASGITransport(make_app(service, chosen, key), raise_app_exceptions=False)
        async with service.working(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Within(service, client)

    return opened
