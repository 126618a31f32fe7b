"""``rtmo-deploy models``: the listing, downloading, and untrained checkpoints."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pytest
from safetensors.numpy import load_file
from toy_variant import toy_onnx, toy_variant
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.zoo import EMBEDDED, VARIANTS, EmbeddedModel, architecture, records
from rtmo_deploy.zoo.cache import record_path

PAYLOAD = toy_onnx(bytes(range(256)) * 400)
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("RTMO_DEPLOY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(monkeypatch):
    """A published model that lies on a server on the loopback interface."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(PAYLOAD)))
            self.end_headers()
            self.wfile.write(PAYLOAD)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        record = toy_variant(f"http://127.0.0.1:{httpd.server_address[1]}/toy-256x256-{SHA256[:8]}_20260101.pth")
        monkeypatch.setitem(records._BY_NAME, "toy", record)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield record
        httpd.shutdown()
        thread.join()


def run(*arguments):
    return CliRunner().invoke(app, ["models", *(str(argument) for argument in arguments)])


def run_json(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    return document


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_the_listing_shows_all_models_with_their_figures(arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for name, record in VARIANTS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        scores = record.accuracy
        shown = [
            scores.ap,
            scores.ap50,
            scores.ap75,
            scores.ar,
            scores.ap_easy,
            scores.ap_medium,
            scores.ap_hard,
        ]
        assert re.findall(r"0\.\d{3}", line) == [f"{figure:.3f}" for figure in shown if figure is not None]
        for alias in record.aliases:
            assert re.search(rf"\s{alias}\s", line)
        assert f" {record.input_hw[1]}x{record.input_hw[0]} " in line
        assert f" {len(record.skeleton)} " in line
        assert f" {record.train_set} " in line
        assert line.split()[-1] == "no"
        if record.accuracy.dataset == "COCO val2017":
            assert line.split()[-2] == ("-" if record.latency_v100_ms is None else str(record.latency_v100_ms))
    assert "V100 ms: as published" in result.stdout
    assert result.stderr == ""


def test_the_listing_says_what_is_cached(cache):
    cache.mkdir()
    (cache / VARIANTS["rtmo-s-coco"].file_name).write_bytes(b"")
    cached = {line.split()[0] for line in run().stdout.splitlines() if line.rstrip().endswith(" yes")}
    assert cached == {"rtmo-s-coco"}
    assert [model["name"] for model in run_json("--json")["models"] if model["cached"]] == ["rtmo-s-coco"]


def test_the_listing_as_json(cache):
    document = run_json("--json")
    assert document == run_json("list", "--json")
    assert document["command"] == "models list"
    assert document["cache_dir"] == str(cache)
    assert [model["name"] for model in document["models"]] == list(VARIANTS)
    by_name = {model["name"]: model for model in document["models"]}
    assert by_name["rtmo-m-crowdpose"] == {
        "name": "rtmo-m-crowdpose",
        "aliases": [],
        "architecture": "rtmo-m",
        "input_hw": [640, 640],
        "keypoints": 14,
        "skeleton": "crowdpose-14",
        "train_set": "CrowdPose",
        "accuracy": {
            "dataset": "CrowdPose test",
            "ap": 0.711,
            "ap50": 0.897,
            "ap75": 0.771,
            "ar": None,
            "ar50": None,
            "ap_easy": 0.774,
            "ap_medium": 0.719,
            "ap_hard": 0.634,
        },
        "latency_v100_ms": None,
        "score_thr": 0.1,
        "nms_thr": 0.65,
        "url": "https://download.openmmlab.com/mmpose/v1/projects/rtmo/"
        "rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth",
        "sources": [VARIANTS["rtmo-m-crowdpose"].url],
        "file_name": "rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth",
        "sha256_prefix": "0eaf670d",
        "cached": False,
        "path": str(cache / "rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth"),
    }
    assert by_name["rtmo-t-body7"]["aliases"] == ["rtmo-t"]
    assert by_name["rtmo-t-body7"]["input_hw"] == [416, 416]


def test_json_before_a_subcommand_is_not_dropped_in_silence():
    result = run("--json", "list")
    assert result.exit_code == 2
    assert "models list --json" in result.stderr


def test_download_prints_the_path_and_nothing_else(toy, cache):
    result = run("download", "toy")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{cache / toy.file_name}\n"
    assert re.fullmatch(
        rf"downloading toy-body7: .* of 100\.0 KiB \.\.\.\nFrom {re.escape(toy.url)}\.\n", result.stderr
    )
    assert (cache / toy.file_name).read_bytes() == PAYLOAD


def test_download_as_json(toy, cache):
    document = run_json("download", "toy", "--json")
    assert document == {
        "schema_version": 1,
        "command": "models download",
        "name": "toy-body7",
        "path": str(cache / toy.file_name),
        "sha256": SHA256,
        "size_bytes": len(PAYLOAD),
        "url": toy.url,
        "commit": None,
    }
    address = toy.url.replace("256x256", "copy")
    assert run_json("download", address, "--json")["path"] == run_json("path", address, "--json")["path"]


def test_a_file_that_differs_from_the_first_download_is_refused(toy, cache):
    assert run("download", "toy").exit_code == 0
    record = record_path(cache / toy.file_name)
    record.write_text(record.read_text(encoding="utf-8").replace(SHA256, "0" * 64), encoding="utf-8")
    result = run("download", "toy")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "The cached file has changed" in result.stderr
    record.unlink()
    assert run("download", "toy").exit_code == 0


@pytest.mark.parametrize("arguments", [["list"], ["download", "--help"]])
def test_the_check_is_called_what_it_is(cache, arguments):
    text = " ".join(run(*arguments).stdout.split())
    assert "checked for damage, not for forgery" in text
    assert "8 hex digits of its SHA-256 are published" in text


def test_offline_a_cached_file_is_found_but_not_forced(toy, cache, monkeypatch):
    cache.mkdir()
    (cache / toy.file_name).write_bytes(PAYLOAD)
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    assert run("download", "toy").exit_code == 0
    result = run("download", "toy", "--force")
    assert result.exit_code == 5
    assert "RTMO_DEPLOY_OFFLINE" in result.stderr
    assert result.stdout == ""


def test_errors_become_exit_codes(cache, monkeypatch):
    result = run("download", "rtmo-s-cocco")
    assert result.exit_code == 2
    assert "Did you mean 'rtmo-s-coco'?" in result.stderr
    result = run("download", "rtmo-n")
    assert result.exit_code == 2
    assert "comes with the package" in result.stderr
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    result = run("download", "rtmo-s-coco")
    assert result.exit_code == 5
    assert str(cache / VARIANTS["rtmo-s-coco"].file_name) in result.stderr
    assert result.stdout == ""


def test_path(cache):
    assert run("path").stdout == f"{cache}\n"
    expected = cache / VARIANTS["rtmo-t-body7"].file_name
    assert run("path", "rtmo-t").stdout == f"{expected}\n"
    assert run_json("path", "rtmo-t", "--json")["exists"] is False
    cache.mkdir()
    expected.write_bytes(b"")
    assert run_json("path", "rtmo-t", "--json")["exists"] is True
    assert run("path", "nope").exit_code == 2


class TestInit:
    def test_writes_a_seeded_checkpoint(self, tmp_path):
        out = tmp_path / "n.safetensors"
        result = run("init", "rtmo-n", "-o", out)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{out}\n"
        first = out.read_bytes()
        assert run("init", "rtmo-n", "-o", out, "--force", "--seed", 0).exit_code == 0
        assert out.read_bytes() == first
        assert run("init", "rtmo-n", "-o", out, "--force", "--seed", 1).exit_code == 0
        assert out.read_bytes() != first

    @pytest.mark.parametrize(
        ("arguments", "skeleton", "count"),
        [
            (("rtmo-n",), "coco-17", 17),
            (("rtmo-n", "--keypoints", 14), "crowdpose-14", 14),
            (("rtmo-n", "--keypoints", 5), "generic-5", 5),
            (("rtmo-s",), "coco-17", 17),
            (("rtmo-s", "--keypoints", 14), "crowdpose-14", 14),
            (("rtmo-s-crowdpose",), "crowdpose-14", 14),
            (("rtmo-s-crowdpose", "--keypoints", 14), "crowdpose-14", 14),
        ],
    )
    def test_keypoints(self, tmp_path, arguments, skeleton, count):
        out = tmp_path / "model.safetensors"
        document = run_json("init", *arguments, "-o", out, "--seed", 3, "--json")
        assert document == {
            "schema_version": 1,
            "command": "models init",
            "architecture": arguments[0][:6],
            "skeleton": skeleton,
            "keypoints": count,
            "seed": 3,
            "path": str(out),
            "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        }
        shapes = [tuple(tensor.shape) for tensor in load_file(out).values()]
        assert any(shape[:1] == (count,) for shape in shapes)  # one visibility a keypoint

    def test_an_existing_file_is_kept(self, tmp_path):
        out = tmp_path / "n.pth"
        out.write_bytes(b"precious")
        result = run("init", "rtmo-n", "-o", out)
        assert result.exit_code == 2
        assert "--force" in result.stderr
        assert out.read_bytes() == b"precious"
        assert run("init", "rtmo-n", "-o", out, "--force").exit_code == 0
        assert out.read_bytes() != b"precious"

    @pytest.mark.parametrize("name", ["n.pt", "n", "n.onnx"])
    def test_other_suffixes_are_refused(self, tmp_path, name):
        result = run("init", "rtmo-n", "-o", tmp_path / name)
        assert result.exit_code == 2
        assert ".safetensors" in result.stderr
        assert not (tmp_path / name).exists()

    def test_calls_that_make_no_sense(self, tmp_path):
        out = tmp_path / "x.pth"
        result = run("init", "rtmo-s-crowdpose", "--keypoints", 17, "-o", out)
        assert result.exit_code == 2
        assert "14 keypoints" in result.stderr
        assert run("init", "rtmo-q", "-o", out).exit_code == 2
        assert run("init", "rtmo-n", "--keypoints", 0, "-o", out).exit_code == 2
        assert run("init", "rtmo-n", "--seed", -1, "-o", out).exit_code == 2
        assert not out.exists()
        out.mkdir()
        assert run("init", "rtmo-n", "--force", "-o", out).exit_code == 2


def test_the_module_is_light_to_import():
    code = (
        "import sys, rtmo_deploy.cli.models\n"
        "heavy = {'requests', 'pooch', 'torch', 'numpy', 'filelock', 'rtmo_deploy.zoo'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_comes_with_the_package(cache, monkeypatch):
    toy = EmbeddedModel("rtmo-n", architecture("rtmo-n"), VARIANTS["rtmo-s-coco"].skeleton, "toys", ap=0.5, ap50=0.7)
    monkeypatch.setitem(EMBEDDED, "rtmo-n", toy)
    (entry,) = run_json("--json")["embedded"]
    assert (entry["name"], entry["ap"], entry["path"]) == ("rtmo-n", 0.5, str(toy.path))
    assert "With the package: rtmo-n, 352x352, 17 keypoints, trained on toys; AP 0.500" in " ".join(
        run().stdout.split()
    )
    assert run("path", "rtmo-n").stdout.strip() == str(toy.path)
    assert "comes with the package" in run("download", "rtmo-n").stderr


class TestPack:
    def test_writes_the_weights_alone(self, checkpoint_n, tmp_path):
        output = tmp_path / "n.pth"
        result = CliRunner().invoke(app, ["models", "pack", str(checkpoint_n), "--half", "-o", str(output), "--json"])
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["path"] == str(output)
        assert document["size"] == output.stat().st_size < 0.56 * checkpoint_n.stat().st_size
        assert document["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()

    def test_nothing_is_overwritten(self, checkpoint_n, tmp_path):
        output = tmp_path / "n.pth"
        output.write_bytes(b"mine")
        assert CliRunner().invoke(app, ["models", "pack", str(checkpoint_n), "-o", str(output)]).exit_code == 2
        assert output.read_bytes() == b"mine"
        own = ["models", "pack", str(checkpoint_n), "-o", str(checkpoint_n), "--force"]
        result = CliRunner().invoke(app, own)
        assert result.exit_code == 2
        assert "one of the inputs" in result.stderr
