"""The commands of docs/guides/sign.md with a key, in their order, as a shell runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from release_toys import make

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "sign.md"
#: Needs the network, or a recipe with real models.
LEFT_OUT = ("pip install", "rtmo-deploy release ", "sigstore", "--identity ")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_commands_of_the_guide(tmp_path):
    shutil.move(make(tmp_path / "made").folder, tmp_path / "releases" / "mine")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, module in (("rtmo-deploy", "rtmo_deploy"), ("model_signing", "model_signing")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (bin_folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    blocks = re.findall(r"^```(console|python)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    ran = []
    for kind, block in blocks:
        if kind == "python":
            commands = [[sys.executable, "-c", block]]
        else:
            lines = [line.removeprefix("$ ") for line in block.splitlines()]
            commands = [["sh", "-c", line] for line in lines if not any(part in line for part in LEFT_OUT)]
        for command in commands:
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
            ran.append(command[-1].partition(" ")[0])
    assert ran.count("openssl") == 3
    assert ran.count("rtmo-deploy") == 2
    assert {"model_signing", "import", "from"} <= {word.split()[0] for word in ran}
