"""Reads the keys of signatures: EC keys of P-256, P-384 and P-521 in PEM files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rtmo_deploy.errors import MissingDependencyError, UsageError
from rtmo_deploy.files import read_bounded, reading

if TYPE_CHECKING:
    import os

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

#: Holds the password of an encrypted private key.
PASSWORD_VARIABLE: Final = "RTMO_DEPLOY_SIGN_PASSWORD"  # noqa: S105  a name, no password
_MAX_BYTES: Final = 64 << 10
_CURVES: Final = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_MAKE: Final = "Make a pair of keys with openssl: see docs/guides/sign.md."
#: What a PEM file says that it is, in words.
_KINDS: Final = {
    b"CERTIFICATE": "a certificate",
    b"PUBLIC KEY": "a public key",
    b"PRIVATE KEY": "a private key",
}


def read_private_key(path: str | os.PathLike[str], password: str | None, *, folder: Path) -> EllipticCurvePrivateKey:
    """The private key of a PEM file, encrypted or not, that does not lie in ``folder``.

    Raises:
        UsageError: It cannot be read, is no private key of one of the curves, lies in ``folder``, or the password does
            not open it.
        MissingDependencyError: The package ``cryptography`` is not installed.
    """
    place = Path(path)
    data = _read(place, folder, "Keep the private key where the release is not copied from.")
    if b"PRIVATE KEY" not in data:
        raise UsageError(
            f"A private key is needed, and this is {_kind(data)}.", remedy="Give the private key, in PEM.", where=place
        )
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise missing(error, "Signing a release") from error
    try:
        key = load_pem_private_key(data, password.encode() if password else None)
    except TypeError as error:  # a password too many, or none
        if password:
            raise UsageError(
                "There is a password, and the key is not encrypted.", remedy=f"Unset {PASSWORD_VARIABLE}.", where=place
            ) from error
        raise UsageError(
            "The key is encrypted, and there is no password.", remedy=f"Set {PASSWORD_VARIABLE} to it.", where=place
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = (
            "The password does not open the key, or the key is damaged."
            if password
            else "The key is damaged, or not as openssl writes it."
        )
        remedy = f"Check {PASSWORD_VARIABLE} and the file." if password else _MAKE
        raise UsageError(wrong, remedy=remedy, where=place) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise _other_key(key, place)
    return key


def read_public_key(path: str | os.PathLike[str], *, folder: Path) -> EllipticCurvePublicKey:
    """The public key of a PEM file that does not lie in ``folder``; errors as :func:`read_private_key`."""
    place = Path(path)
    data = _read(place, folder, "A key that came with the release proves nothing: get it from the signer.")
    if b"BEGIN PUBLIC KEY" not in data:
        raise UsageError(
            f"A public key is needed, and this is {_kind(data)}.",
            remedy="Give the public key, in PEM, as 'openssl ec -in key.pem -pubout' writes it.",
            where=place,
        )
    if data.count(b"-----BEGIN ") > 1:
        raise UsageError(
            "The file holds more than one key or certificate.", remedy="Give a file with one public key.", where=place
        )
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise missing(error, "Checking a signature") from error
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError("The key is damaged.", remedy=_MAKE, where=place) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise _other_key(key, place)
    return key


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """SHA-256 of the key's PEM file as openssl writes it, 64 hex digits."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def hash_of(key: EllipticCurvePublicKey) -> HashAlgorithm:
    """The hash that signatures by such a key use: as long as the curve is."""
    from cryptography.hazmat.primitives import hashes

    return getattr(hashes, _CURVES[key.curve.name])()  # type: ignore[no-any-return]


def missing(error: ImportError, purpose: str) -> MissingDependencyError:
    """The error for a package of the extra ``sign`` that could not be imported."""
    package = (error.name or "model_signing").partition(".")[0]
    return MissingDependencyError(package, purpose=purpose, extra="sign")


def _read(path: Path, folder: Path, remedy: str) -> bytes:
    with reading(path, UsageError, remedy="Check its path, and who may read it."):
        data = read_bounded(path, max_bytes=_MAX_BYTES)
    if path.resolve().is_relative_to(folder.resolve()):
        raise UsageError("The key lies in the release's folder.", remedy=remedy, where=path)
    return data


def _kind(data: bytes) -> str:
    return next((kind for mark, kind in _KINDS.items() if mark in data), "no key in PEM")


def _other_key(key: object, path: Path) -> UsageError:
    curve = getattr(getattr(key, "curve", None), "name", None)
    name = re.sub("(Private|Public)?Key$", "", type(key).__name__.strip("_"))
    kind = f"an EC key of the curve {curve}" if curve else f"of the kind {name}"
    return UsageError(f"Keys are EC keys of P-256, P-384 or P-521, and this one is {kind}.", remedy=_MAKE, where=path)
