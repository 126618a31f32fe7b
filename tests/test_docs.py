"""Commands of README and docs: each is one that the program takes, and those that can run here do, with small files."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.cli.help import EXAMPLES
from rtmo_deploy.cli.options import join_sizes
from rtmo_deploy.data.images import read_image
from rtmo_deploy.media.video_writer import VideoWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
#: Guides that test_guides.py runs from top to bottom.
GUIDES = {"convert.md", "int8.md", "jetson.md", "keypoints.md", "mmdeploy.md"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GROUP = typer.main.get_command(app)
#: README's ``bash`` blocks are run by test_readme.py; of the ``console`` blocks these are run here, in this order.
RUN = [
    "rtmo-deploy export rtmo-s.pth --decode fixed",
    "rtmo-deploy build-trt rtmo-s.onnx --dry-run",
    "rtmo-deploy package triton rtmo-s.onnx models",
    "rtmo-deploy eval ckpt.onnx --ann person_keypoints_val2017.json --images val2017/ --save found.json",
    "rtmo-deploy eval --predictions found.json --ann person_keypoints_val2017.json",
    "rtmo-deploy predict rtmo-s photos/ --vis-out-dir drawn",
    "rtmo-deploy predict rtmo-s walk.mp4 --track --save-video walk_drawn.mp4 --csv walk.csv",
    "rtmo-deploy predict rtmo-s.onnx photos/ walk.mp4 --coco people.json --jsonl people.jsonl",
    "rtmo-deploy predict rtmo-s walk.mp4 --jsonl -",
    "rtmo-deploy predict rtmo-s walk.mp4 --save-video walk_poses.mp4 --jsonl walk.jsonl",
    "rtmo-deploy predict rtmo-s walk.mp4 --track --smooth --save-video tracked.mp4 --jsonl tracked.jsonl",
    "rtmo-deploy models path rtmo-s",
    "rtmo-deploy data synth scenes --video hide --seconds 1",
    "rtmo-deploy package cpp rtmo-s.onnx people",
    "rtmo-deploy export rtmo-s.pth --decode fixed --static -o static.onnx",
    "rtmo-deploy package deepstream static.onnx pipeline",
]
#: Python examples of the docs that do not run here, by page and first line; all others do.
PYTHON_NOT_RUN = {
    "serve.md: from pathlib import Path": "needs a server; tests/serve has this client",
    "serve.md: from rtmo_deploy import RTMO": "serves until it is stopped; tests/serve do",
    "bulk.md: import polars as pl": "tests/bulk/test_worker.py runs it",
    "doctor.md: def _conda(facts: Facts) -> Told | None:": "a rule, to be written into the file that is named there",
    "diff.md: from rtmo_deploy.release.comparison import DiffOptions, compare_releases": (
        "needs two releases; tests/release/test_release_diff.py compares some"
    ),
    "plugin.md: import tensorrt as trt": "needs TensorRT",
    "convert.md: from rtmo_deploy.convert.trt import BuildOptions, build_engine, plan_build": "needs TensorRT",
    "deploy.md: from pathlib import Path": "tests/release run recipes",
    "deploy.md: from rtmo_deploy.doctor import collect, judge": "tests/doctor probe this machine",
    "measure.md: from pathlib import Path": "takes seconds; tests/measure run bench",
    "tensorrt.md: from pathlib import Path": "needs an engine",
    "tensorrt.md: # torch": "needs an engine and a GPU",
    "sign.md: from rtmo_deploy.release import sign_release, verify_release": "tests/release/test_sign_guide.py runs it",
    "sign.md: import base64": "tests/release/test_sign_guide.py runs it",
}
GPU = "needs a GPU, or TensorRT"
DIFF = "tests/cli/test_diff_command.py compares two releases"
GUIDE = "tests/release/test_sign_guide.py runs it with a small release"
SIGSTORE = "needs Sigstore; tests/release/test_release_identity.py has one of its own"
DATASET = "needs COCO, and days on a GPU"
NOT_RUN = {
    "rtmo-deploy export ckpt.pth --format onnx": "tests/test_readme.py runs it",
    "rtmo-deploy build-trt --fp16": GPU,
    "rtmo-deploy build-trt rtmo-s.pth --fp16": GPU,
    "rtmo-deploy build-trt rtmo-s.int8.onnx --int8": GPU,
    "rtmo-deploy build-trt rtmo-s.onnx --int8": GPU,
    "rtmo-deploy build-trt rtmo-s.pth --int8 --calib images/": GPU,
    "rtmo-deploy build-trt rtmo-s.int8.fp16.onnx --int8": GPU,
    "rtmo-deploy bench --device cuda:0": GPU,
    "rtmo-deploy train recipes/train/rtmo-s-coco.yaml --device cuda": DATASET,
    "torchrun --nproc-per-node 8 -m rtmo_deploy train recipes/train/rtmo-s-coco.yaml --device cuda": DATASET,
    "rtmo-deploy train --init rtmo-s --ann people/annotations.json --images people/images --epochs 30": (
        "needs the network, and takes minutes; tests/cli/test_train.py fine-tunes rtmo-n"
    ),
    "rtmo-deploy export rtmo-s.pth --format web -o web/": "needs npm; tests/package/test_web_export.py exports",
    "rtmo-deploy predict rtmo-s rtsp://camera/stream --policy newest --jsonl -": "needs a camera",
    "rtmo-deploy predict rtmo-s 0 --show": "needs a camera and a display",
    "pip install 'rtmo-deploy[cpu,ray]'": "needs the network",
    "pip install 'rtmo-deploy[cpu,video]'": "needs the network",
    'pip install "rtmo-deploy[cpu,serve]"': "needs the network",
    "rtmo-deploy serve rtmo-s.onnx": "serves until it is stopped; tests/serve run it",
    "rtmo-deploy predict rtmo-s photos/ --engine ray --parquet people": "tests/bulk/test_ray.py runs it",
    "rtmo-deploy predict /nfs/rtmo-s.onnx /nfs/photos --engine ray --parquet /nfs/people --ray-address auto": (
        "tests/bulk/test_ray.py runs it on a cluster"
    ),
    "rtmo-deploy models download rtmo-s": "needs the network; tests/cli/test_models.py downloads",
    "rtmo-deploy predict hf://OWNER/REPOSITORY/rtmo-s.onnx@v1.0 photo.jpg": "tests/zoo/test_hub.py has a Hub",
    "rtmo-deploy doctor": "tests/cli/test_doctor_command.py runs it",
    "rtmo-deploy doctor --json > machine.json": "tests/cli/test_doctor_command.py runs it",
    "rtmo-deploy doctor --timeout 300": "tests/cli/test_doctor_command.py runs it",
    "rtmo-deploy release recipes/quickstart.yaml": "tests/test_readme.py runs it",
    "rtmo-deploy verify releases/quickstart": "tests/cli/test_release_command.py verifies a release",
    "rtmo-deploy diff releases/before releases/quickstart --html diff.html --md comment.md": DIFF,
    'rtmo-deploy diff before releases/quickstart --md "$GITHUB_STEP_SUMMARY"': DIFF,
    "pip install 'rtmo-deploy[sign]'": "needs the network",
    "openssl ecparam -name prime256v1 -genkey -noout -out key.pem": GUIDE,
    "openssl ec -in key.pem -pubout -out public.pem": GUIDE,
    "rtmo-deploy release recipe.yaml -o releases/mine --sign key.pem": "tests/cli/test_release_command.py signs one",
    "rtmo-deploy sign releases/mine --key key.pem": GUIDE,
    "rtmo-deploy verify releases/mine --key public.pem": GUIDE,
    "model_signing verify key releases/mine --signature releases/mine/model.sig --public_key public.pem": GUIDE,
    "openssl dgst -sha256 -verify public.pem -signature signature.der signed.bin": GUIDE,
    "rtmo-deploy release recipe.yaml -o releases/mine --sign sigstore": SIGSTORE,
    "rtmo-deploy sign releases/mine --key sigstore": SIGSTORE,
    "rtmo-deploy verify releases/mine --identity me@example.com --issuer https://accounts.google.com": SIGSTORE,
    "rtmo-deploy verify releases/mine --identity https://github.com/OWNER/REPO/.github/workflows/release.yml"
    "@refs/tags/v1.0 --issuer https://token.actions.githubusercontent.com": SIGSTORE,
    "rtmo-deploy verify releases/mine --identity https://gitlab.com/GROUP/PROJECT//.gitlab-ci.yml@refs/tags/v1.0 "
    "--issuer https://gitlab.com": SIGSTORE,
    "pip download --no-deps --dest wheels tensorrt_cu12_bindings==10.4.0": "needs the network",
    "RTMO_DEPLOY_TENSORRT_BINDINGS=wheels pytest tests/convert/test_plugin_tensorrt.py": "needs those wheels",
    "pip install nvidia-cuda-nvrtc-cu12==12.1.105": "needs the network",
    "python -m rtmo_deploy.convert.plugins": "needs that compiler",
    'python -c "import json; from rtmo_deploy.release.schema import recipe_schema; '
    'print(json.dumps(recipe_schema(), indent=2))"': "tests/release compare the schema with its file",
}


#: Help pages whose examples run here, in this order, in one folder with what they name.
HELP_RUN = ("export", "cast", "build-trt", "predict", "inspect", "validate", "eval", "package triton", "package cpp")
HELP_RUN += ("package deepstream", "data synth", "data check", "models init")
#: Parts of examples that need a network, a camera, a GPU, an engine or minutes.
HELP_NOT_RUN = ("openvino", "build-trt rtmo-s", "--int8", "rtsp:", "ray", "model.engine", "--images 100")


def fenced(kind: str, pages: Sequence[Path] = PAGES) -> list[str]:
    """Commands of the blocks of one kind, of the pages, without comments."""
    blocks = [
        block
        for page in pages
        for block in re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    ]
    lines = [re.sub(r"\s+#\s.*", "", line) for block in blocks for line in block.splitlines()]
    if kind == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def inline() -> list[str]:
    """Commands in running text: a command's name, perhaps with some of its arguments."""
    return [found for page in PAGES for found in re.findall(r"`(rtmo-deploy [a-z][^`]*)`", page.read_text("utf-8"))]


def examples() -> list[tuple[str, str]]:
    """Page and first line of each Python block of the docs, and the block. README's run in test_readme.py."""
    found = []
    for page in PAGES[1:]:
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        found += [(f"{page.name}: {block.partition(chr(10))[0]}", block) for block in blocks]
    return found


def command_of(words: list[str]) -> tuple[object, list[str]]:
    """The command that is called, and its arguments; an unknown one is a KeyError."""
    command, rest = GROUP.commands[words[0]], words[1:]
    below = getattr(command, "commands", {})
    return (below[rest[0]], rest[1:]) if below and rest else (command, rest)


@pytest.mark.parametrize("line", dict.fromkeys(fenced("console") + fenced("bash")))
def test_a_command_in_a_block_is_understood(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])
    start = next((i for i, word in enumerate(words) if word in {"rtmo-deploy", "rtmo_deploy"}), None)
    if start is None:
        assert words[0] in {"pip", "pytest", "python", "openssl", "model_signing"} or "=" in words[0], line
        return
    command, arguments = command_of(words[start + 1 :])
    settings = {"help_option_names": ["-h", "--help"]}  # as the application sets; a command keeps what it saw first
    with command.make_context(words[start + 1], join_sizes(arguments), **settings):  # raises for what it does not take
        pass


@pytest.mark.parametrize("line", dict.fromkeys(inline()))
def test_a_command_in_a_sentence_is_there(line: str) -> None:
    command, arguments = command_of(shlex.split(line)[1:])
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in arguments if word.startswith("-")} <= known | {"--help"}


def test_every_command_runs_or_has_a_reason_not_to() -> None:
    assert set(fenced("console", [page for page in PAGES if page.name not in GUIDES])) == set(RUN) | set(NOT_RUN)
    assert not set(RUN) & set(NOT_RUN)


def test_the_commands_run(checkpoint_n: Path, onnx_n: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint_n, "rtmo-s.pth")
    shutil.copy(onnx_n, "ckpt.onnx")
    made = CliRunner().invoke(app, shlex.split("data synth made --images 2 --seed 7 --people 2 --size 256"))
    assert made.exit_code == 0, made.output
    Path("made/annotations.json").rename("person_keypoints_val2017.json")
    Path("made/images").rename("val2017")
    shutil.copytree("val2017", "photos")
    with VideoWriter("walk.mp4") as writer:
        for number in range(3):
            writer.write(np.roll(read_image(next(Path("photos").iterdir())), 4 * number, axis=1), number / 25)
    # The published model is not fetched: the file of that name is taken before it.
    shutil.copy("rtmo-s.pth", "rtmo-s")
    for line in RUN:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        expected = {0, 5} if "--dry-run" in line else {0}
        assert done.exit_code in expected, f"{line}\n{done.output}"
        assert done.stdout.strip(), line
    shutil.copy("walk.mp4", "video.mp4")
    shutil.copy("rtmo-s.onnx", "model.onnx")
    shutil.copy(next(Path("photos").iterdir()), "photo.jpg")
    shutil.copy("rtmo-s.pth", "ckpt.pth")
    shutil.copy("person_keypoints_val2017.json", "val.json")
    shutil.copytree("val2017", "val")
    for name in [name for name in sys.modules if name.partition(".")[0] == "rtmlib"]:
        monkeypatch.delitem(sys.modules, name)
    for start, example in examples():
        if start not in PYTHON_NOT_RUN:
            exec(compile(example, start, "exec"), {})
    for name in [name for name in sys.modules if name.partition(".")[0] == "rtmlib"]:
        del sys.modules[name]  # a page shows how to put a module in its place


def test_the_examples_of_help_pages_run(
    checkpoint_n: Path, onnx_n: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint_n, "model.pth")
    shutil.copy(checkpoint_n, "rtmo-s")
    shutil.copy(onnx_n, "model.onnx")
    made = CliRunner().invoke(app, shlex.split("data synth made --images 2 --seed 7 --people 2 --size 256"))
    assert made.exit_code == 0, made.output
    for name in ("train", "val"):
        shutil.copytree("made/images", name)
        shutil.copy("made/annotations.json", f"{name}.json")
    shutil.copytree("made/images", "photos")
    shutil.copy(next(Path("photos").iterdir()), "photo.jpg")
    with VideoWriter("walk.mp4") as writer:
        for number in range(3):
            writer.write(np.roll(read_image("photo.jpg"), 4 * number, axis=1), number / 25)
    for example in (example for name in HELP_RUN for example in EXAMPLES[name]):
        if any(part in example for part in HELP_NOT_RUN):
            continue
        done = CliRunner().invoke(app, shlex.split(example))
        assert done.exit_code in ({0, 5} if "--dry-run" in example else {0}), f"{example}\n{done.output}"


def test_python_examples_that_do_not_run_are_there() -> None:
    assert {start for start, _ in examples()} >= set(PYTHON_NOT_RUN)


def test_the_places_that_architecture_names_are_there():
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", text))
    assert len(named) > 10
    named = {name for name in named if "NAME" not in name}
    missing = [name for name in named if not (ROOT / "rtmo_deploy" / name).exists() and not (ROOT / name).exists()]
    assert not missing
