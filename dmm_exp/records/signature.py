"""Signatures of records and ledgers: Ed25519, from the optional package ``cryptography``.

What is signed is a checksum, together with what it is the checksum of. A signature shows that the holder of the private
key wrote something. It does not show when, or that nothing was written later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmm_exp.errors import REASON, UserError, explained, shown
from dmm_exp.files.reading import read_bytes

SIGNATURE, SIGNER = "signature", "signed_by"  # keys of a JSON object
KEY_BYTES = 1 << 16  # of a file with a key
MAKE = "openssl genpkey -algorithm ed25519 -out key.pem"
PUBLISH = "openssl pkey -in key.pem -pubout -out public.pem"


@dataclass(frozen=True)
class Key:
    """A private key.

    Attributes:
        public: the public key that belongs to it, 32 bytes in hexadecimal.
    """

    public: str
    _private: Any = field(repr=False, compare=False)

    def sign(self, about: str, checksum: str) -> str:
        """Return the signature of a checksum, in hexadecimal; ``about`` is what it is the checksum of."""
        return self._private.sign(_message(about, checksum)).hex()


def private_key(path: str | Path | Key, name: str = "key") -> Key:
    """Read a private key from a PEM file.

    Args:
        path: of the file, or a key that was read already.
        name: of the argument that names it, for errors.

    Raises:
        UserError: it cannot be read, is no Ed25519 key, or is protected by a password; or the package is missing.
    """
    if isinstance(path, Key):
        return path
    found = _read_key(path, name, "private", MAKE)
    return Key(found.public_key().public_bytes_raw().hex(), found)


def public_key(path: str | Path, name: str = "key") -> str:
    """Read a public key from a PEM file, and return it in hexadecimal.

    Raises:
        UserError: it cannot be read, or is no Ed25519 key; or the package is missing.
    """
    return _read_key(path, name, "public", PUBLISH).public_bytes_raw().hex()


def _read_key(path: str | Path, name: str, kind: str, command: str) -> Any:
    """Return a ``private`` or ``public`` Ed25519 key, as the package has it."""
    serialization, ed25519 = _package(name)
    key, expected = f"{name}={shown(path)}", f"expected the {kind} Ed25519 key that '{command}' writes"
    with explained(f"{key}: cannot be read ({REASON}); {expected}", OSError, ValueError):
        content = read_bytes(Path(path).expanduser(), KEY_BYTES)
    is_other = kind == "public" and b"PRIVATE KEY" in content
    state = "is a private key" if is_other else f"holds no {kind} key in PEM"
    locked = f"{key}: is protected by a password; {expected}, without one"
    with explained(f"{key}: {state}; {expected}"), explained(locked, TypeError):  # other exceptions differ by version
        if kind == "private":
            found = serialization.load_pem_private_key(content, password=None)
        else:
            found = serialization.load_pem_public_key(content)
    if not isinstance(found, (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey)):
        raise UserError(f"{key}: is a {type(found).__name__.strip('_')}; {expected}")
    return found


def is_signed(public: str, about: str, checksum: str, signature: Any) -> bool:
    """Return whether a signature is that of the holder of a public key (hexadecimal) for a checksum.

    Raises:
        UserError: the package is missing.
    """
    _, ed25519 = _package("signature")
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _message(about, checksum))
    except Exception:  # of another length, no hexadecimal number, of another key or another content
        return False
    return True


def _message(about: str, checksum: str) -> bytes:
    return f"dmm_exp {about}\n{checksum}".encode()


def _package(name: str) -> tuple[Any, Any]:
    with explained(f"{name}: signatures need the package cryptography: pip install 'dmm_exp[sign]'", ImportError):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    return serialization, ed25519
