"""A Sigstore of its own: a certificate authority, a log of certificates and a log of signatures, and what they sign."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

URL = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
ECDSA = ec.ECDSA(hashes.SHA256())
ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
SCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def der(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def canonical(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Sigstore:
    """Its keys, and what is signed with them."""

    def __init__(self) -> None:
        self.authority, self.certificates, self.signatures = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.start = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sigstore")])
        public = self.authority.public_key()
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.root = (
            self._blank(self.name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.authority, hashes.SHA256())
        )

    def _blank(self, name, public):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(public)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(self.start)
        return builder.not_valid_after(self.start + timedelta(minutes=10))

    def trust(self, cache: Path) -> None:
        """Put its keys where the package ``sigstore`` keeps those of the last visit (``XDG_CACHE_HOME``)."""
        valid = {"start": "2020-01-01T00:00:00Z"}

        def log(key):
            public = {"rawBytes": b64(der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": valid}
            key_id = {"keyId": b64(hashlib.sha256(der(key)).digest())}
            return {"baseUrl": "https://log.test", "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": key_id}

        authority = {
            "subject": {"organization": "test", "commonName": "sigstore"},
            "uri": "https://ca.test",
            "certChain": {"certificates": [{"rawBytes": b64(self.root.public_bytes(Encoding.DER))}]},
            "validFor": valid,
        }
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.signatures)],
            "ctlogs": [log(self.certificates)],
            "certificateAuthorities": [authority],
            "timestampAuthorities": [],
        }
        place = cache / "sigstore-python" / "tuf" / URL
        place.mkdir(parents=True)
        (place / "trusted_root.json").write_text(json.dumps(root))

    def bundle(self, payload: bytes, identity: str, issuer: str) -> str:
        """A bundle over a payload that somebody signed with a certificate of this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key.public_key(), identity, issuer)
        kind = "application/vnd.in-toto+json"
        signature = key.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload), ECDSA)
        envelope = {"payload": b64(payload), "payloadType": kind, "signatures": [{"sig": b64(signature)}]}
        material = {
            "certificate": {"rawBytes": b64(certificate.public_bytes(Encoding.DER))},
            "tlogEntries": [self._entry(payload, signature, certificate)],
        }
        media = "application/vnd.dev.sigstore.bundle.v0.3+json"
        return json.dumps({"mediaType": media, "verificationMaterial": material, "dsseEnvelope": envelope})

    def _certificate(self, public, identity: str, issuer: str):
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            self._blank(x509.Name([]), public)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()), critical=False
            )
            .add_extension(x509.UnrecognizedExtension(ISSUER_OID, issuer.encode()), critical=False)
        )
        first = builder.sign(self.authority, hashes.SHA256())  # the log signs the certificate without its own extension
        body, when = first.tbs_certificate_bytes, int(self.start.timestamp() * 1000)
        head = struct.pack("!BBQH", 0, 0, when, 1) + hashlib.sha256(der(self.authority)).digest()
        signed = head + len(body).to_bytes(3, "big") + body + b"\0\0"
        signature = self.certificates.sign(signed, ECDSA)
        one = b"\0" + hashlib.sha256(der(self.certificates)).digest() + struct.pack("!QH", when, 0) + b"\4\3"
        one += struct.pack("!H", len(signature)) + signature
        listed = struct.pack("!HH", len(one) + 2, len(one)) + one
        octets = b"\4" + (bytes([len(listed)]) if len(listed) < 128 else b"\x81" + bytes([len(listed)])) + listed
        return builder.add_extension(x509.UnrecognizedExtension(SCT_OID, octets), critical=False).sign(
            self.authority, hashes.SHA256()
        )

    def _entry(self, payload: bytes, signature: bytes, certificate):
        """The only entry of the log of signatures, with what proves that it is there."""
        verifier = b64(certificate.public_bytes(Encoding.PEM))
        digest = {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}
        spec = {
            "envelopeHash": digest,
            "payloadHash": digest,
            "signatures": [{"signature": b64(signature), "verifier": verifier}],
        }
        body = canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"log.test - 1\n1\n{b64(root)}\n"
        key_id, when = hashlib.sha256(der(self.signatures)).digest(), int(self.start.timestamp()) + 60
        signed = b64(key_id[:4] + self.signatures.sign(note.encode(), ECDSA))
        promise = canonical({"body": b64(body), "integratedTime": when, "logID": key_id.hex(), "logIndex": 0})
        return {
            "logIndex": "0",
            "logId": {"keyId": b64(key_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(when),
            "inclusionPromise": {"signedEntryTimestamp": b64(self.signatures.sign(promise, ECDSA))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 log.test {signed}\n"},
            },
            "canonicalizedBody": b64(body),
        }
