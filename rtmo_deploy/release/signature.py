"""Checks the signature of a release: whether it is genuine, and which files were signed.

It is a Sigstore bundle as OpenSSF's model-signing makes it, over the SHA-256 of each file, made with a key or with a
certificate of Sigstore. :mod:`.integrity` compares the files.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.files import UnreadableError, is_inside, read_bounded, reading
from rtmo_deploy.plain import parse_json
from rtmo_deploy.release.keys import fingerprint, hash_of, missing, read_public_key
from rtmo_deploy.zoo.cache import OFFLINE_VARIABLE, is_offline

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from sigstore.verify import Verifier

#: The signature's file in a release's folder.
SIGNATURE: Final = "model.sig"
#: Stands for a key: sign with an identity instead.
SIGSTORE: Final = "sigstore"
_MAX_BYTES: Final = 16 << 20
_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class SignatureStatus(StrEnum):
    """What is known of a release's signature."""

    #: There is none, and none was asked for.
    NONE = "none"
    #: There is one, and no key or identity was given to check it.
    NOT_CHECKED = "not checked"
    #: It is genuine.
    VALID = "valid"
    INVALID = "invalid"
    #: There is none, and one was asked for.
    MISSING = "missing"


@dataclass(frozen=True)
class Signature:
    """What is known of a release's signature."""

    status: SignatureStatus
    #: The key's SHA-256, or the identity and its issuer; of a valid one.
    signer: str | None = None
    #: Why it is not valid, or what a reader should know.
    finding: str | None = None


@dataclass(frozen=True)
class Trusted:
    """Whose signatures are accepted: those of a key, or of an identity that an issuer vouches for."""

    key: EllipticCurvePublicKey | None = None
    identity: str | None = None
    issuer: str | None = None


class InvalidError(Exception):
    """A signature is not valid; the message is a clause that says why."""


def trusted_signer(
    key: str | os.PathLike[str] | None, identity: str | None, issuer: str | None, *, folder: Path
) -> Trusted | None:
    """Whose signatures are accepted; None if nothing is given.

    Raises:
        UsageError: The options do not go together, or the key cannot be used.
        MissingDependencyError: A package is not installed.
    """
    if key is not None and (identity is not None or issuer is not None):
        raise UsageError("A key and an identity are two ways to check a signature.", remedy="Give one of them.")
    if (identity is None) != (issuer is None) or identity == "" or issuer == "":
        raise UsageError(
            "An identity is checked together with its issuer.",
            remedy="Give both, such as --identity me@example.com --issuer https://accounts.google.com",
        )
    if key is not None:
        return Trusted(key=read_public_key(key, folder=folder))
    return None if identity is None else Trusted(identity=identity, issuer=issuer)


def check_signature(folder: Path, trusted: Trusted | None) -> tuple[Signature, dict[str, str] | None]:
    """What is known of a folder's signature, and, if it is valid, the SHA-256 of each file that was signed, by name.

    Raises:
        SetupError: Sigstore's keys could not be read.
        MissingDependencyError: A package is not installed.
    """
    path = folder / SIGNATURE
    there = os.path.lexists(path)
    if trusted is None:
        return Signature(SignatureStatus.NOT_CHECKED if there else SignatureStatus.NONE), None
    if not there:
        return Signature(SignatureStatus.MISSING, finding="it is not signed"), None
    with reading(path, remedy="Check who may read it."):
        try:
            data, bundle = _read(path)
            if trusted.key is not None:
                payload, signer, note = *_payload_by_key(bundle, trusted.key), None
            else:
                payload, signer, note = _payload_by_identity(data, bundle, trusted)
            return Signature(SignatureStatus.VALID, signer, note), signed_files(payload)
        except InvalidError as error:
            return Signature(SignatureStatus.INVALID, finding=str(error)), None


def _read(path: Path) -> tuple[bytes, Any]:
    """The signature's file, and the JSON in it."""
    if path.is_symlink():
        raise InvalidError("it is a link")
    try:
        data = read_bounded(path, max_bytes=_MAX_BYTES)
        return data, parse_json(data, unique_keys=True)
    except UnreadableError as error:
        raise InvalidError(str(error)) from error


def _payload_by_key(bundle: Any, key: EllipticCurvePublicKey) -> tuple[bytes, str]:
    """What a bundle signs, if this key signed it (DSSE 1.0), and the key's fingerprint."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    material = _fields(bundle, "mediaType", "verificationMaterial", "dsseEnvelope")["verificationMaterial"]
    if isinstance(material, dict) and "publicKey" not in material:
        raise InvalidError("it was not made with a key; check it with --identity and --issuer")
    hint = _fields(_fields(material, "publicKey", "tlogEntries")["publicKey"], "hint")["hint"]
    envelope = _fields(bundle["dsseEnvelope"], "payload", "payloadType", "signatures")
    signatures = envelope["signatures"]
    if bundle["mediaType"] != _MEDIA_TYPE or envelope["payloadType"] != _PAYLOAD_TYPE or material["tlogEntries"] != []:
        raise InvalidError("it is no bundle that a key has signed")
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise InvalidError("it has not exactly one signature")
    one = _fields(signatures[0], "sig", "keyid")
    payload, signed = _decoded(envelope["payload"]), _decoded(one["sig"])
    own = fingerprint(key)
    if hint != own or one["keyid"] != "":
        shown = hint if isinstance(hint, str) and _SHA256.fullmatch(hint) else "unknown"
        raise InvalidError(f"it was made with another key (SHA-256 {shown}, and the given one has {own})")
    message = b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)
    try:
        key.verify(signed, message, ec.ECDSA(hash_of(key)))
    except InvalidSignature:
        raise InvalidError("the signature file was changed, or another key made it") from None
    return payload, f"key with SHA-256 {own}"


def _payload_by_identity(data: bytes, bundle: Any, trusted: Trusted) -> tuple[bytes, str, str | None]:
    """What a bundle signs, if Sigstore knows that the identity signed it; who that is, and a note."""
    try:
        from sigstore.errors import Error
        from sigstore.models import Bundle
        from sigstore.verify import policy
    except ImportError as error:
        raise missing(error, "Checking a Sigstore signature") from error
    if isinstance(bundle, dict) and "publicKey" in (bundle.get("verificationMaterial") or ()):
        raise InvalidError("it was made with a key; check it with --key")
    verifier, note = _sigstore_verifier()
    identity, issuer = str(trusted.identity), trusted.issuer
    try:
        kind, payload = verifier.verify_dsse(Bundle.from_json(data), policy.Identity(identity=identity, issuer=issuer))
    except (Error, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InvalidError(f"Sigstore does not accept it ({' '.join(str(error).split())[:500]})") from error
    if kind != _PAYLOAD_TYPE:
        raise InvalidError("it is no bundle that signs files")
    return payload, f"{identity} ({issuer})", note


def _sigstore_verifier() -> tuple[Verifier, str | None]:
    """Sigstore's verifier with the newest keys; where it cannot be reached, with those that are here, and a note."""
    from sigstore.errors import TUFError
    from sigstore.verify import Verifier
    from tuf.api.exceptions import DownloadError

    note = f"the keys of Sigstore are those of the last visit or of the installed package ({OFFLINE_VARIABLE} is set)"
    try:
        if not is_offline():
            try:
                return Verifier.production(), None
            except TUFError as error:
                if not isinstance(error.__cause__, DownloadError):
                    raise
                note = "Sigstore cannot be reached: its keys are those of the last visit or of the installed package"
        return Verifier.production(offline=True), note
    except (TUFError, OSError, ValueError) as error:
        raise SetupError(
            f"The keys of Sigstore cannot be used: {error} ({error.__cause__}).",
            remedy="Upgrade the package 'sigstore', or remove its cache.",
        ) from error


def signed_files(payload: bytes) -> dict[str, str]:
    """Name and SHA-256 of the files that a statement of model-signing lists; InvalidError if it is none."""
    try:
        statement = parse_json(payload, unique_keys=True)
        predicate = statement["predicate"]
        if (statement["_type"], statement["predicateType"]) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
            raise InvalidError("what it signs is no list of files")
        if (predicate["serialization"]["method"], predicate["serialization"]["hash_type"]) != ("files", "sha256"):
            raise InvalidError("it signs other hashes than the SHA-256 of each file")
        resources = [(one["name"], one["algorithm"], one["digest"]) for one in predicate["resources"]]
    except (UnreadableError, KeyError, TypeError) as error:
        raise InvalidError("what it signs is no list of files") from error
    for name, algorithm, digest in resources:
        if not isinstance(name, str) or not is_inside(name):
            raise InvalidError("it lists a name that is no path within the folder")
        if algorithm != "sha256" or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise InvalidError("it lists a file without its SHA-256")
    if len({name for name, _, _ in resources}) < len(resources):
        raise InvalidError("it lists a file twice")
    return {name: digest for name, _, digest in resources}


def _fields(value: Any, *names: str) -> dict[str, Any]:
    """An object of a bundle that has these fields and no others."""
    if not isinstance(value, dict) or value.keys() != {*names}:
        raise InvalidError("it is no bundle that a key has signed")
    return value


def _decoded(text: Any) -> bytes:
    """The bytes of base64 that is written in the one usual way."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise InvalidError("it is no bundle that a key has signed") from error
    if base64.b64encode(data).decode() != text:
        raise InvalidError("the signature file was changed")
    return data
