"""``rtmo-deploy release``: a recipe becomes a folder to hand over. ``sign`` signs one, and ``verify`` checks one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.console import print_facts, print_json, print_table
from rtmo_deploy.cli.options import JsonOption
from rtmo_deploy.cli.progress import status
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import plain
from rtmo_deploy.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.integrity import Verification
    from rtmo_deploy.release.record import Release

_SIGN_HELP = (
    "PEM file of a private EC key, or 'sigstore' for an identity. Variable RTMO_DEPLOY_SIGN_PASSWORD: its password."
)


def release(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What is built, measured and required.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Folder of the release. [default: releases/NAME]"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="CKPT", help="Checkpoint or model name instead of the recipe's source."),
    ] = None,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Run again this step and all that depends on it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and what is there already.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="A gate that could not be measured here is a failure.")
    ] = False,
    sign_with: Annotated[
        str | None, typer.Option("--sign", metavar="KEY|sigstore", help=f"Sign the release. {_SIGN_HELP}")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build, measure and judge what a recipe asks for; write artifacts, manifest, hashes and a report.

    Steps that nothing has changed for are not run again, and a run that was killed goes on where it was.
    Exit 6 if a gate did not pass.
    """
    with status("reading the recipe") as progress:
        from rtmo_deploy.release.pipeline import plan_release, run_release
        from rtmo_deploy.release.schema import load_release

        folder = output or Path("releases") / load_release(recipe).name
        require_free([folder / "manifest.json"], [recipe], force=True)
        password = _password()
        if dry_run:
            planned = plan_release(recipe, folder, source=source, force=from_step, sign=sign_with, password=password)
        else:
            done = run_release(
                recipe,
                folder,
                source=source,
                force=from_step,
                strict=strict,
                sign=sign_with,
                password=password,
                progress=progress,
            )
    if dry_run:
        _show_plan(planned, folder, as_json=as_json)
        return
    _show(done, as_json=as_json)
    if done.error is not None:
        raise done.error


def sign(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a release.")],
    key: Annotated[str, typer.Option("--key", metavar="KEY|sigstore", help=_SIGN_HELP)],
    as_json: JsonOption = False,
) -> None:
    """Compare a release with its manifest, and sign all its files; the signature is its file model.sig."""
    from rtmo_deploy.release.integrity import require_folder
    from rtmo_deploy.release.signing import sign_release

    require_folder(directory, "'sign' takes the folder of a release")
    with status("signing"):
        signed = sign_release(directory, key, password=_password())
    if as_json:
        print_json("sign", **plain(signed))
        return
    by = f"key with SHA-256 {signed.key_sha256}" if signed.key_sha256 else "Sigstore"
    print_facts(
        {
            "release": f"{signed.name} ({signed.verdict} when it was made)",
            "signed": f"{signed.files} files, by {by}",
            "signature": str(signed.signature),
        }
    )


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a release.")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="PEM file of the public key that must have signed it.")
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option("--identity", metavar="NAME", help="Whom Sigstore must have seen signing it: e-mail or CI job."),
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="URL", help="OpenID Connect issuer of the identity.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every file of a release with its manifest, and with what was signed.

    Exit 6 if a file is missing, changed or extra, or if the signature that was asked for is not there or not valid.
    """
    from rtmo_deploy.release.integrity import require_folder, verify_release

    require_folder(directory, "'verify' takes the folder of a release")
    with status("comparing"):
        found = verify_release(directory, key=key, identity=identity, issuer=issuer)
    if as_json:
        print_json("verify", **plain(found), ok=found.ok)
    else:
        _show_verification(found)
    found.require_ok()


def _password() -> str | None:
    from rtmo_deploy.release.keys import PASSWORD_VARIABLE

    return os.environ.get(PASSWORD_VARIABLE) or None


def _show_verification(found: Verification) -> None:
    from rtmo_deploy.release.signature import SignatureStatus

    signature = found.signature
    said = {
        SignatureStatus.NOT_CHECKED: "signed; signature not checked: give --key, or --identity and --issuer",
        SignatureStatus.VALID: f"valid: {signature.signer}",
        SignatureStatus.INVALID: f"not valid: {signature.finding}",
    }
    facts = {"release": "not known: the manifest is damaged"}
    if found.name is not None:
        facts = {"release": f"{found.name} ({found.verdict} when it was made)", "made": str(found.made)}
    facts |= {
        "compared": f"{found.checked} files",
        "signature": said.get(signature.status, "not signed"),
    }
    if found.working:
        facts["not compared"] = f"{', '.join(found.working)}: working files, no part of the release"
    if signature.status is SignatureStatus.VALID and signature.finding:
        facts["note"] = signature.finding
    failed = "not as it was made" if found.differences else "the signature that was asked for is not there or not valid"
    facts["result"] = "passed: every file is as it was made" if found.ok else f"failed: {failed}"
    print_facts(facts | {kind: ", ".join(names) for kind, names in found.differences.items()})


def _show_plan(planned: Sequence[tuple[Step, str]], folder: Path, *, as_json: bool) -> None:
    if as_json:
        steps = [{"name": step.name, "action": step.action, "cached": not why, "why": why} for step, why in planned]
        print_json("release", dry_run=True, directory=str(folder), steps=steps)
        return
    rows = [(step.name, step.action, "would run" if why else "cached", why) for step, why in planned]
    title = f"{sum(bool(why) for _, why in planned)} of {len(planned)} steps would be carried out"
    print_table(Table(title, ("step", "action", "", "why"), rows, numbers=False))


def _show(done: Release, *, as_json: bool) -> None:
    from collections import Counter

    from rtmo_deploy.release.integrity import read_manifest
    from rtmo_deploy.release.signature import SIGNATURE

    signature = done.folder / SIGNATURE
    signed = str(signature) if signature.exists() else None
    if as_json:
        manifest = read_manifest(done.folder)
        print_json("release", dry_run=False, directory=str(done.folder), signature=signed, manifest=manifest)
        return
    if done.gates:
        rows = [
            (gate.name, gate.status.value, gate.bound, gate.measured or "-", gate.message) for gate in done.ranked_gates
        ]
        print_table(Table("Gates", ("gate", "result", "bound", "measured", "note"), rows, numbers=False))
    counts = Counter(result.status.value for result in done.results.values())
    facts = {
        "verdict": done.verdict,
        "steps": ", ".join(f"{count} {name}" for name, count in counts.items()),
        "release": str(done.folder),
        "report": str(done.folder / "report.html"),
        "signature": signed or "not signed",
    }
    for result in done.results.values():
        if result.message:
            facts[f"{result.name} ({result.status.value})"] = result.message
    print_facts(facts)
