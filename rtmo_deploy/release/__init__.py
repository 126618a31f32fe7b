"""Release recipes, their steps, their gates and the folder that is handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.release.integrity import Verification, verify_release
    from rtmo_deploy.release.signature import Signature, SignatureStatus
    from rtmo_deploy.release.signing import SignedRelease, sign_release

__all__ = ["Signature", "SignatureStatus", "SignedRelease", "Verification", "sign_release", "verify_release"]

__getattr__ = lazy_exports(
    __name__,
    {
        "integrity": ("Verification", "verify_release"),
        "signature": ("Signature", "SignatureStatus"),
        "signing": ("SignedRelease", "sign_release"),
    },
)
