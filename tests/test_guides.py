"""The guides' commands, from top to bottom in an empty folder that has what the reader has, with small stand-ins."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.model import RTMO, load_checkpoint, save_checkpoint
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.runtime.estimator import read_artifact

if TYPE_CHECKING:
    from collections.abc import Callable

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
#: Of COCO's keypoints: shoulders, wrists, ankles.
KEEP = [5, 6, 9, 10, 15, 16]
SIX = Skeleton(
    "person-6",
    ("left_shoulder", "right_shoulder", "left_wrist", "right_wrist", "left_ankle", "right_ankle"),
    edges=((0, 1), (0, 2), (1, 3), (0, 4), (1, 5)),
    flip_pairs=((0, 1), (2, 3), (4, 5)),
    sigmas=(0.079, 0.079, 0.062, 0.062, 0.089, 0.089),
)
HOURS = "hours on a GPU; tests/cli/test_train.py fine-tunes"
#: Commands that are not run, by the guide, with the reason.
NOT_RUN = {
    "int8.md": {"rtmo-deploy bench model.onnx model.int8.onnx": "takes half a minute; tests/measure run bench"},
    "keypoints.md": {
        "rtmo-deploy train --init rtmo-s --ann train.json --images train/ --val-ann val.json --val-images val/ "
        "--epochs 30 --out runs/six": HOURS,
        "rtmo-deploy train --init rtmo-s --ann train.json --images train/ "
        "--set 'data.sigmas=[0.08,0.08,0.06,0.06,0.09,0.09]' --out runs/other": HOURS,
    },
    "jetson.md": {
        "rtmo-deploy build-trt six.int8.fp16.onnx --int8 --backend tensorrt-rtx": (
            "needs TensorRT-RTX; tests/convert build with it"
        ),
    },
}
#: Exit codes other than 0: what was not installed or has no GPU, and bounds that six images cannot meet.
ALLOWED = {"--dry-run": {0, 5}, "parity": {0, 6}}


def run(line: str) -> str:
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    allowed = next((codes for word, codes in ALLOWED.items() if word in line), {0})
    assert done.exit_code in allowed, f"{line}\n{done.output}"
    return done.stdout


def scene(folder: str, *, images: int, seed: int) -> None:
    run(f"rtmo-deploy data synth {folder}.made --images {images} --seed {seed} --people 1-2 --size 192")
    Path(f"{folder}.made/images").rename(folder)
    Path(f"{folder}.made/annotations.json").rename(f"{folder}.json")


def six_keypoints(annotations: str) -> None:
    """Cut the annotations down to the six of the guide, with the category that it shows."""
    guide = (GUIDES / "keypoints.md").read_text("utf-8")
    data = json.loads(Path(annotations).read_text())
    for person in data["annotations"]:
        triples = [person["keypoints"][3 * one : 3 * one + 3] for one in KEEP]
        person["keypoints"] = [value for triple in triples for value in triple]
        person["num_keypoints"] = sum(triple[2] > 0 for triple in triples)
    data |= json.loads(re.findall(r"^```json\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)[0])
    Path(annotations).write_text(json.dumps(data))


def cut_to_six(loaded: Any, target: Path) -> None:
    """The model with six of its keypoints: it finds people, unlike an untrained one."""
    small = RTMO(replace(loaded.spec, num_keypoints=6))
    state = small.state_dict()
    for name, value in loaded.model.state_dict().items():
        if value.shape != state[name].shape:
            value = value.unflatten(0, (17, -1))[KEEP].flatten(0, 1)
        state[name] = value
    small.load_state_dict(state)
    save_checkpoint(target, small.eval(), skeleton=SIX, input_hw=(192, 192))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The sample model, at 192x192."""
    path = tmp_path_factory.mktemp("trained") / "n.pth"
    run(f"rtmo-deploy models pack rtmo-n -o {path} --imgsz 192")
    return load_checkpoint(path, tell=False)


def prepare_convert(trained: Any) -> None:
    path = Path("work_dirs/my-rtmo/best_coco_AP_epoch_600.pth")
    path.parent.mkdir(parents=True)
    weights = trained.model.state_dict()
    cfg = "model = dict(test_cfg=dict(input_size=(192, 192), score_thr=0.1, nms_thr=0.65))"
    averaged = {"steps": torch.tensor(9)} | {f"module.{name}": value for name, value in weights.items()}
    torch.save({"meta": {"cfg": cfg}, "state_dict": weights, "ema_state_dict": averaged}, path)
    scene("photos", images=2, seed=1)
    scene("val", images=4, seed=2)


def prepare_int8(trained: Any) -> None:
    shutil.copy(trained.path, "ckpt.pth")
    run("rtmo-deploy export ckpt.pth -o model.onnx --no-verify")
    scene("photos", images=8, seed=1)
    scene("val", images=6, seed=2)


def prepare_six(trained: Any) -> None:
    cut_to_six(trained, Path("six.pth"))
    scene("photos", images=8, seed=1)
    scene("train", images=4, seed=3)
    scene("val", images=6, seed=2)
    six_keypoints("train.json")
    six_keypoints("val.json")


def prepare_keypoints(trained: Any) -> None:
    prepare_six(trained)
    guide = (GUIDES / "keypoints.md").read_text("utf-8")
    Path("six.json").write_text(re.findall(r"^```json\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)[1])


def prepare_mmdeploy(trained: Any) -> None:
    shutil.copy(trained.path, "rtmo-s.pth")
    Path("work_dir").mkdir()
    run("rtmo-deploy export rtmo-s.pth -o work_dir/end2end.onnx --min-rows 1 --max-dets 50 --no-verify")
    scene("photos", images=2, seed=1)


PREPARE: dict[str, Callable[[Any], None]] = {
    "convert.md": prepare_convert,
    "int8.md": prepare_int8,
    "jetson.md": prepare_six,
    "keypoints.md": prepare_keypoints,
    "mmdeploy.md": prepare_mmdeploy,
}


def commands(guide: str) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", (GUIDES / guide).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.slow
@pytest.mark.parametrize("guide", PREPARE)
def test_a_guide_runs_from_top_to_bottom(
    guide: str, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    PREPARE[guide](trained)
    skipped = NOT_RUN.get(guide, {})
    lines = commands(guide)
    assert set(skipped) <= set(lines)
    for line in lines:
        if line not in skipped:
            assert run(line).strip(), line
    if guide in {"jetson.md", "keypoints.md"}:
        made = read_artifact(Path("six.int8.fp16.onnx" if guide == "jetson.md" else "six.onnx"))
        assert made.skeleton == SIX
    if guide != "mmdeploy.md":
        assert list(Path("drawn").iterdir())
