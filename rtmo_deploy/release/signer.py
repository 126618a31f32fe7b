"""Makes the signature of a release with OpenSSF's model-signing: by a key, or by an identity that Sigstore proves."""

from __future__ import annotations

import base64
import os
import sys
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.files import temporary_folder, write_whole
from rtmo_deploy.plain import parse_json
from rtmo_deploy.release.keys import fingerprint, missing, read_private_key
from rtmo_deploy.release.signature import SIGNATURE, SIGSTORE, signed_files
from rtmo_deploy.zoo.cache import OFFLINE_VARIABLE, is_offline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from model_signing.hashing import PathLike
    from model_signing.manifest import Manifest
    from model_signing.signing import Config


class Signer:
    """Signs the files of a folder, with a key that was read or with Sigstore; made by :func:`open_signer`."""

    def __init__(self, config: Config, key: EllipticCurvePublicKey | None) -> None:
        self._config = config
        self.key = key

    def sign(self, folder: Path, files: Mapping[str, str], ignored: Iterable[str]) -> str | None:
        """Write the signature of ``files``, whose SHA-256 are expected; the SHA-256 of the key, None for Sigstore.

        Args:
            folder: The release's folder.
            files: Names of all its files, with ``/``, and their SHA-256.
            ignored: Names of what may lie in the folder and is not signed.

        Raises:
            ArtifactError: A file is not what was expected.
            SetupError: Sigstore does not sign, or the signature cannot be written.
        """
        from model_signing import hashing

        class Files(hashing.Config):
            def hash(self, model_path: PathLike, *, files_to_hash: Iterable[PathLike] | None = None) -> Manifest:  # noqa: ARG002
                return super().hash(model_path, files_to_hash=[folder / name for name in files])

        names = Files()  # type: ignore[no-untyped-call]
        listed = names.set_ignored_paths(paths=[*ignored, SIGNATURE], ignore_git_paths=False)
        with temporary_folder() as place:  # elsewhere: a kill leaves the release as it was
            made = place / SIGNATURE
            self._write(self._config.set_hashing_config(listed), folder, made)
            data = made.read_bytes()
        if signed_files(base64.b64decode(parse_json(data)["dsseEnvelope"]["payload"])) != dict(files):
            raise ArtifactError("A file changed while the release was signed.", remedy="Sign it again.", where=folder)
        write_whole(folder / SIGNATURE, data)
        return None if self.key is None else fingerprint(self.key)

    def _write(self, config: Config, folder: Path, target: Path) -> None:
        try:
            config.sign(folder, target)
        except Exception as error:  # what Sigstore's parts raise has no base in common
            if self.key is not None:
                raise
            raise _unsigned(error) from error


def open_signer(key: str | os.PathLike[str], password: str | None, *, folder: Path) -> Signer:
    """What signs releases: a private key in a PEM file, or Sigstore for ``"sigstore"``.

    Sigstore is asked now whether it can sign, before hours of work; the identity is proved when it signs.

    Raises:
        UsageError: The key cannot be used, or lies in ``folder``.
        SetupError: Sigstore cannot be reached, or there is no identity to sign with.
        MissingDependencyError: A package is not installed.
    """
    public = None
    if key != SIGSTORE:
        public = read_private_key(key, password, folder=folder).public_key()
    try:
        from model_signing.signing import Config
    except ImportError as error:
        raise missing(error, "Signing a release") from error
    config = Config()  # type: ignore[no-untyped-call]
    if public is None:
        return Signer(_sigstore_config(config), None)
    # model-signing's annotation says str, and it hands the password on to a function that takes bytes alone.
    secret: Any = password.encode() if password else None
    return Signer(config.use_elliptic_key_signer(private_key=os.fspath(key), password=secret), public)


def _sigstore_config(config: Config) -> Config:
    if is_offline():
        raise SetupError(f"Sigstore signs over the network, and {OFFLINE_VARIABLE} is set.", remedy="Sign with a key.")
    from sigstore.oidc import IdentityError, detect_credential

    try:
        ambient = detect_credential()
    except IdentityError as error:
        raise SetupError(
            f"There is no identity to sign with: {error}.",
            remedy="Allow the job an identity token (GitHub Actions: permissions: id-token: write).",
        ) from error
    if ambient is None and not sys.stdin.isatty():
        raise SetupError(
            "There is no identity to sign with: no token of a CI job, and no terminal to log in from.",
            remedy="See docs/guides/sign.md for the tokens of CI jobs, or sign with a key.",
        )
    try:
        return config.use_sigstore_signer(use_ambient_credentials=True)
    except Exception as error:  # as above
        raise _unsigned(error) from error


def _unsigned(error: Exception) -> SetupError:
    from requests import RequestException
    from sigstore.errors import NetworkError
    from tuf.api.exceptions import DownloadError

    reason = " ".join(str(error).split())[:500] or type(error).__name__
    if isinstance(error, NetworkError) or isinstance(error.__cause__, DownloadError | RequestException):
        reason = "it cannot be reached"
    return SetupError(
        f"Sigstore does not sign: {reason}.",
        remedy="Check the network and the identity, or sign with a key; what was made is kept.",
    )
