"""The two questions asked of Curve25519 keys: do they fit, and does a signature hold?

Signal signs with the key of the Diffie-Hellman exchange (XEdDSA). Verifying is Ed25519 with the
public key brought from its Montgomery to its Edwards form; the sign of x travels in the highest
bit of the signature. Source: Signal, "The XEdDSA and VXEdDSA Signature Schemes", 2.3 to 2.5;
RFC 7748, 4.1.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_PRIME = 2**255 - 19
_LOW_255_BITS = (1 << 255) - 1


def public_key_of(private_key: bytes) -> bytes:
    """Return the public key of a private one, both of 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def is_signed_by(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether the holder of the 32-byte public key made this 64-byte signature."""
    u = int.from_bytes(public_key, "little") & _LOW_255_BITS
    if (u + 1) % _PRIME == 0:
        return False
    y = (u - 1) * pow(u + 1, -1, _PRIME) % _PRIME
    edwards = bytearray(y.to_bytes(KEY_BYTES, "little"))
    edwards[-1] |= signature[-1] & 0x80
    plain = signature[:-1] + bytes([signature[-1] & 0x7F])
    try:
        Ed25519PublicKey.from_public_bytes(bytes(edwards)).verify(plain, message)
    except (InvalidSignature, ValueError):
        return False
    return True
