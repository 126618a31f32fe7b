"""Writes the outputs, log lines and annotations of a GitHub Actions step for what `rtmo-deploy release --json` printed.

Called as ``outcome.py RELEASE.json EXIT_CODE [WHY]``; WHY is given if the program was not run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

#: GitHub shows ten annotations of a kind for a step.
SHOWN = 9
MEANING = {
    1: "it failed",
    2: "the recipe or an input is wrong",
    3: "input data is wrong or missing",
    4: "a model or an artifact is wrong or missing",
    5: "the environment lacks something",
    6: "a gate did not pass",
}


def escaped(text: object, *, name: bool = False) -> str:
    """Text for a workflow command; ``name`` for a property's value."""
    found = str(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return found.replace(":", "%3A").replace(",", "%2C") if name else found


def annotate(title: object, message: object) -> str:
    """The command that makes an error's annotation."""
    return f"::error title={escaped(title, name=True)}::{escaped(message)}"


def set_output(name: str, value: object) -> None:
    """Set an output of the step; a value may have any characters."""
    end = secrets.token_hex(16)
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as stream:
        stream.write(f"{name}<<{end}\n{value}\n{end}\n")


def findings(manifest: dict[str, Any]) -> list[str]:
    """Annotations of the gates that stand in the way, and of the steps that failed."""
    bad = {"failed", "blocked", "not measured"} if manifest["strict"] else {"failed"}
    found = []
    for gate in manifest["gates"]:
        if gate["status"] in bad:
            measured = f"; measured: {gate['measured']}" if gate["measured"] else ""
            why = f". {gate['message']}" if gate["message"] else ""
            found.append(annotate(f"Gate {gate['status']}: {gate['name']}", f"bound: {gate['bound']}{measured}{why}"))
    states = {"failed", "unavailable"} if manifest["strict"] else {"failed"}
    found += [
        annotate(f"Step {step['status']}: {step['name']}", step["message"])
        for step in manifest["steps"]
        if step["status"] in states
    ]
    return found


def show(text: str) -> None:
    """Print text in which nothing is a workflow command."""
    word = secrets.token_hex(16)
    print(f"::stop-commands::{word}\n{text}\n::{word}::")


def prune(cache: Path, keys: set[str]) -> str:
    """Remove results that the release did not take; return a digest of those that are left, or nothing."""
    places = [place for place in sorted(cache.glob("*")) if re.fullmatch("[0-9a-f]{64}", place.name)]
    left = [place.name for place in places if place.name in keys]
    for place in places:
        if place.name not in keys:
            shutil.rmtree(place)
    return hashlib.sha256(" ".join(left).encode()).hexdigest()[:32] if left else ""


def ending(code: int, error: dict[str, Any]) -> str:
    """The annotation of a run that ended with an error."""
    where = f"{error['where']}:" if error.get("where") else None
    said = " ".join(filter(None, (where, error.get("message"), error.get("remedy"))))
    return annotate("rtmo-deploy release", f"{MEANING.get(code, 'it ended')} (exit code {code}). {said}")


def main(file: str, code: int, refused: str = "") -> None:
    """Write everything; ``refused`` says why the program was not run."""
    try:
        document = json.loads(Path(file).read_bytes())
    except (OSError, ValueError):  # the program was not run, or was killed before it had written all
        document = {"error": {"message": refused or "The log says why."}}
    error = document.get("error", {})
    if "manifest" not in document:
        code = code or 1  # nothing without a release is a success
    set_output("exit-code", code)
    if "manifest" not in document:
        set_output("verdict", "error")
        print(ending(code, error))
        return
    manifest, folder = document["manifest"], Path(document["directory"])
    rows = [
        f"{gate['status']:<12} {gate['name']} ({gate['bound']}): {gate['measured'] or '-'}"
        for gate in manifest["gates"]
    ]
    show("\n".join([*rows, f"verdict: {manifest['verdict']}"]))
    found = findings(manifest) or ([ending(code, error)] if code else [])
    if len(found) > SHOWN:
        found[SHOWN:] = [annotate("rtmo-deploy release", f"{len(found) - SHOWN} more: see the report.")]
    print(*found, sep="\n")
    set_output("verdict", manifest["verdict"])
    set_output("directory", folder)
    set_output("report", folder / "report.html")
    set_output("signature", document.get("signature") or "")
    if os.environ["INPUT_CACHE"] == "true":
        digest = prune(folder / ".cache", {step["key"] for step in manifest["steps"]})
        set_output("cache-key", os.environ["CACHE_PREFIX"] + digest if digest else "")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
