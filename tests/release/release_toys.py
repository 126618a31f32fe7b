"""A release without models: actions that write small files and figures, and do nothing else."""

# ruff: noqa: ARG002  the arguments are those of the real actions
from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path

from rtmo_deploy.errors import MissingDependencyError, ModelError, SetupError
from rtmo_deploy.measure.bench.statistics import Ratio
from rtmo_deploy.release.pipeline import run_release
from rtmo_deploy.release.record import NotHereError, Outcome

RECIPE = """\
schema_version: 2
name: toy
source: ckpt.pth
artifacts:
  onnx: {make: export}
  fixed: {make: export, decode: fixed}
  fp16: {make: cast, from: fixed}
  int8: {make: quantize, from: fixed, count: 8}
accuracy:
  data: {synthetic: {images: 4}}
  gates:
    - {artifact: fp16, ap_drop_max: 0.005}
    - {artifact: int8, against: onnx, ap_min: 0.5, ap_drop_max: 0.02}
parity:
  - {a: source, b: onnx, synthetic: 2}
latency:
  - name: cpu
    contenders: [source, onnx]
    people: [1, 10]
    gates:
      - {artifact: onnx, against: source, max_ratio: 1.0}
      - {artifact: onnx, p95_ms: 50}
card:
  authors: [Ada]
  links: {paper: "https://arxiv.org/abs/2312.07526"}
"""
AP = {"source": 0.6, "onnx": 0.6, "fixed": 0.6, "fp16": 0.599, "int8": 0.59}
#: A grey image of one pixel.
PIXEL = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c1912130f141d1a1f1e1d1a"
    "1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc0000b080001000101011100ffc4001400010000000000"
    "0000000000000000000009ffc40014100100000000000000000000000000000000ffda0008010100003f0054df"
    "ffd9"
)
#: What a toy model says of itself, as ``Artifact.to_dict`` gives it.
DESCRIBED = {
    "kind": "onnx",
    "architecture": "toy",
    "skeleton": {
        "name": "two",
        "keypoints": ["left", "right"],
        "edges": [],
        "flip_pairs": [[0, 1]],
        "sigmas": [0.1] * 2,
    },
    "input": {"height": 64, "width": 96, "batch": None, "dynamic_hw": True, "placement": "center", "pad": 114},
    "decode": {"mode": "onnx", "score_thr": 0.1, "nms_thr": 0.65, "max_dets": None},
    "precision": "fp32",
    "target": None,
    "variant": None,
    "versions": {"toy": "1"},
    "domain": None,
    "untrained": False,
}
ERRORS = {
    "model": ModelError("It is damaged.", remedy="Mend it."),
    "setup": SetupError("The disk is full.", remedy="Make room."),
    "absent": NotHereError("There is no GPU.", remedy="Get one."),
    "package": MissingDependencyError("toys", purpose="Playing", extra="toys"),
}


class ToyActions:
    """What carries a toy release out.

    Attributes:
        ran: Names of the steps that were carried out.
        fail: Step to a key of ``ERRORS``.
        ap: AP of each model, 0 to 1.
        change: Step to figures that it finds instead.
        salt: What else the bytes of an artifact depend on.
        pause: Seconds that each step takes.
        busy: Why the machine is busy.
    """

    def __init__(self, fail=None, ap=None, change=None, pause=0.0, slow=1.0, busy=()):
        self.ran = []
        self.fail = fail or {}
        self.ap = {**AP, **(ap or {})}
        self.change = change or {}
        self.pause = pause
        self.slow = slow
        self.busy = list(busy)
        self.package = "1"

    def check(self, steps):
        pass

    def require_files(self, steps):
        pass

    def locate(self, step, *, fetch, progress=lambda _: None):
        return step.files

    def versions(self, action):
        return {"toy": self.package} if action == "cast" else {"rtmo-deploy": "0"}

    def revision(self, action):
        return 1

    def depends_on_machine(self, step):
        return step.action == "latency"

    def machine(self):
        return {"cpu": "Abacus <1>", "cores": 2, "gpus": [], "fingerprint": "toy"}

    def ratio(self, times, others, *, paired):
        value = math.exp(sum(map(math.log, times)) / len(times) - sum(map(math.log, others)) / len(others))
        return Ratio(value, value * 0.95, value * 1.05)

    def run(self, step, job):
        self.ran.append(step.name)
        job.progress("at work")
        time.sleep(self.pause)
        if step.name in self.fail:
            raise ERRORS[self.fail[step.name]]
        outcome = getattr(self, f"_{step.action}", self._artifact)(step, job)
        return Outcome(outcome.files, {**outcome.facts, **self.change.get(step.name, {})}, outcome.hidden)

    def _source(self, step, job):
        path = job.files["checkpoint"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        facts = {"name": path.name, "sha256": digest, "size": path.stat().st_size, "published": None}
        return Outcome(
            (), {**facts, "kind": "checkpoint", "precision": "fp32", "architecture": "toy", "artifact": DESCRIBED}
        )

    def _artifact(self, step, job):
        model = job.inputs["model"].main
        name = f"{job.options['file_stem']}.onnx"
        options = {key: value for key, value in step.options.items() if key != "file_stem"}
        text = f"{step.action} {json.dumps(options, sort_keys=True)} {hashlib.sha256(model.read_bytes()).hexdigest()}\n"
        (job.folder / name).write_text(text)
        (job.folder / f"{name}.extra").write_text(f"{text}beside it\n")
        facts = {"kind": "onnx", "precision": step.name, "decode": "onnx"}
        return Outcome((name, f"{name}.extra"), {**facts, "artifact": {**DESCRIBED, "precision": step.name}})

    def _draw(self, step, job):
        (job.folder / "annotations.json").write_text(json.dumps(dict(step.options)))
        return Outcome(("annotations.json",), {"source": "toys"})

    def _annotated(self, step, job):
        return Outcome((), {"source": "toys", "max_images": step.options["max_images"]})

    def _accuracy(self, step, job):
        ap = self.ap[step.inputs["model"]]
        metrics = {"AP": ap, "AP50": 0.8}
        facts = {"ap": ap, "metrics": metrics, "protocol": "coco", "images": 4, "people": 9, "domain": None}
        return Outcome((), facts)

    def _parity(self, step, job):
        names = [f"001-{side}.jpg" for side in "abd"]
        for name in names:
            (job.folder / name).write_bytes(PIXEL)
        people = {"matched": 7, "missed": 0, "extra": 0, "oks_mean": 1.0, "keypoint_px_p99": 0.001}
        facts = {
            "verdict": "agree",
            "source": "toys",
            "bounds": {"score_thr": 0.5},
            "failures": [],
            "causes": [],
            "notes": [],
            "people": people,
            "checks": [{"name": "mean OKS", "bound": "at least 0.9999", "measured": "1.0000", "passed": True}],
        }
        shown = [{"name": "synthetic-0", "magnified": 100, "files": names}]
        return Outcome(tuple(names), {**facts, "shown": shown}, hidden=tuple(names))

    def _latency(self, step, job):
        entries = []
        for people in step.options["people"] or [None]:
            for number, name in enumerate(step.options["contenders"]):
                median = (20.0 if number == 0 else 10.0 * self.slow) + 0.1 * (people or 0)
                spread = {"p50": 1.0, "mean": 1.02, "min": 0.9, "p90": 1.2, "p95": 1.3, "p99": 1.5}
                total = {"n": 50, **{key: median * factor for key, factor in spread.items()}}
                case = {"batch": 1, "threads": None, "people": people}
                ratio = None if number == 0 else {"value": median / 20, "low": median / 21, "high": median / 19}
                entries.append(
                    {
                        "artifact": name,
                        "contender": {
                            "label": name,
                            "backend": "toy",
                            "model": f"{name}.onnx",
                            "reference": number == 0,
                        },
                        "case": case,
                        "total_ms": total,
                        "stages_ms": {},
                        "rounds_ms": [median, median * 1.01, median * 0.99],
                        "ratio": None if self.busy else ratio,
                        "interference": {"busy": self.busy, "lost": 0.0},
                    }
                )
        facts = {"protocol": step.options["protocol"], "machine": self.machine(), "entries": entries, "warnings": []}
        facts["busy"] = bool(self.busy)
        name = f"{step.options['name']}.json"
        (job.folder / name).write_text(json.dumps(facts))
        return Outcome((name,), facts)


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """A recipe and its checkpoint in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ckpt.pth").write_bytes(b"weights")
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def make(folder: Path, text: str = RECIPE, actions: ToyActions | None = None, **options):
    """Carry a toy release out in ``folder/out``."""
    return run_release(write_recipe(folder, text), folder / "out", actions=actions or ToyActions(), **options)


def places(value, path=()):
    """The way to every value in a recipe, the recipe itself first."""
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*path, key))
    if isinstance(value, list):
        for at, one in enumerate(value):
            yield from places(one, (*path, at))
