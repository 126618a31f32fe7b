"""Pairs of keys for tests of signatures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


class Pair(NamedTuple):
    """PEM files of a private and a public key."""

    private: Path
    public: Path


def write_pair(folder: Path, name: str = "key", *, key=None, password: str | None = None, style="PKCS8") -> Pair:
    """A new pair of keys, of P-256 unless another ``key`` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    key = key or ec.generate_private_key(ec.SECP256R1())
    hidden = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.pub.pem")
    pair.private.write_bytes(key.private_bytes(Encoding.PEM, getattr(PrivateFormat, style), hidden))
    pair.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return pair
