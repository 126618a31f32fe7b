"""Signs the folder of a release that is there already."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import GateFailedError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.release.integrity import MANIFEST, PART_OF_SIGNATURE, SUMS, WORKING, read_manifest, verified
from rtmo_deploy.release.lock import LOCK_NAME, locked
from rtmo_deploy.release.signature import SIGNATURE
from rtmo_deploy.release.signer import open_signer

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class SignedRelease:
    """A release that was signed."""

    directory: Path
    name: str
    verdict: str
    signature: Path
    #: Number of files that are signed.
    files: int
    #: SHA-256 of the public key's PEM file; None if Sigstore signed.
    key_sha256: str | None


def sign_release(
    directory: str | os.PathLike[str], key: str | os.PathLike[str], *, password: str | None = None
) -> SignedRelease:
    """Compare a release with its manifest, and sign it; a signature that is there is replaced.

    Args:
        directory: The release's folder. The signature becomes its file ``model.sig``.
        key: PEM file of a private EC key (P-256, P-384 or P-521) outside the folder; or ``"sigstore"``: sign with the
            identity of a CI job, or one that a browser asks for. Sigstore needs the network.
        password: Of an encrypted key.

    Raises:
        GateFailedError: A file is not what the manifest says, or the release's verdict is ``failed``.
        ArtifactError: It is no release, or was not finished.
        UsageError: The key cannot be used, or lies in the folder.
        SetupError: Sigstore does not sign, the signature cannot be written, or a release is at work in the folder.
        MissingDependencyError: A package of the extra ``sign`` is not installed.
    """
    folder = Path(directory)
    read_manifest(folder)
    signer = open_signer(key, password, folder=folder)
    # Where there is no lock, as in a copy, no run has ever been.
    with locked(folder) if (folder / LOCK_NAME).exists() else nullcontext():
        for left in folder.glob(PART_OF_SIGNATURE):
            left.unlink(missing_ok=True)
        found, manifest = verified(folder)
        found.require_ok()
        if manifest["verdict"] == "failed":
            raise GateFailedError(
                "A release that failed is not signed.", remedy="Its report says what did not pass.", where=folder
            )
        files = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
        files |= {name: sha256_of(folder / name) for name in (MANIFEST, SUMS)}
        fingerprint = signer.sign(folder, files, WORKING)
    return SignedRelease(folder, manifest["name"], manifest["verdict"], folder / SIGNATURE, len(files), fingerprint)
