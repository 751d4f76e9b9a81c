"""Checks the examples in dataplane/wire/SPEC.md with an implementation that shares no code with ours.

Python's hmac and hashlib, and the cryptography package's ChaCha20-Poly1305 and X25519, follow the
specification's text; every hexadecimal block must come out. tests/test_spec.c ties the same blocks
to our C. Run from the root:
python3 tests/gen/wire_spec_check.py dataplane/wire/SPEC.md  (version: requirements.txt)
"""

import hashlib
import hmac
import re
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def blocks(path):
    text = open(path, encoding="utf-8").read()
    found = re.findall(r"```hex ([\w-]+)\n(.*?)```", text, re.S)
    return {name: bytes.fromhex("".join(l[4:] for l in body.splitlines())) for name, body in found}


def count_up(first, n=32):
    return bytes(range(first, first + n))


def sha(data):
    return hashlib.sha256(data).digest()


def hmac_sha(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def kdf(secret, label):
    return hmac_sha(secret, label + b"\x01")


def mac16(key, data):
    return hashlib.blake2b(data, digest_size=16, key=key).digest()


def hkdf(ck, ikm, n):
    temp, out, last = hmac_sha(ck, ikm), [], b""
    for i in range(n):
        last = hmac_sha(temp, last + bytes([i + 1]))
        out.append(last)
    return out


def check_sealing(b):
    secret = count_up(0x60)
    key, salt = kdf(secret, b"pollux key"), kdf(secret, b"pollux salt")[:4]

    def unseal(p):
        return ChaCha20Poly1305(key).decrypt(salt + p[8:16], p[32:], p[:32])

    assert b["keys"] == key + salt + kdf(secret, b"pollux next")
    assert unseal(b["ping"]) == (1).to_bytes(8, "little")
    assert unseal(b["req-sealed"]) == b["req"]


def check_macs(b, psk):
    hello, retry = b["hello"], b["retry"]
    mac_hello, mac_reply = kdf(psk, b"pollux mac hello"), kdf(psk, b"pollux mac reply")
    assert hello[144:160] == mac16(mac_hello, hello[:144])
    assert retry[-16:] == mac16(mac_reply, retry[:-16])
    assert retry[32:64] == hello[64:96]
    again = hello[:112] + b["hello-again"]
    assert again[112] == 24 and again[120:144] == retry[64:88]
    assert again[144:160] == mac16(mac_hello, again[:144])


def check_noise(b, psk):
    hello, ack = b["hello"], b["hello-ack"]
    e_c = X25519PrivateKey.from_private_bytes(count_up(0x20))
    e_a = X25519PrivateKey.from_private_bytes(count_up(0x40))
    raw = (Encoding.Raw, PublicFormat.Raw)
    pub_c, pub_a = e_c.public_key().public_bytes(*raw), e_a.public_key().public_bytes(*raw)
    assert hello[64:96] == pub_c and ack[32:64] == pub_a
    h = ck = sha(b"Noise_NNpsk0_25519_ChaChaPoly_SHA256")
    h = sha(h + b"PolluxHandshake" + hello[:64])
    ck, temp_h, k = hkdf(ck, psk, 3)
    h = sha(h + temp_h)
    h = sha(h + pub_c)
    ck, k = hkdf(ck, pub_c, 2)
    tag = ChaCha20Poly1305(k).encrypt(bytes(12), b"", h)
    assert tag == hello[96:112]
    h = sha(h + tag)
    h = sha(h + pub_a)
    ck, k = hkdf(ck, pub_a, 2)
    ck, k = hkdf(ck, e_c.exchange(X25519PublicKey.from_public_bytes(pub_a)), 2)
    assert ChaCha20Poly1305(k).decrypt(bytes(12), ack[64:], h) == b["hello-ack-plain"]
    assert b"".join(hkdf(ck, b"", 2)) == b["secrets"]


def check_reset(b):
    where = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]) + (4000).to_bytes(2, "little")
    token = mac16(b"\xbb" * 32, (0x0A0B0C0D).to_bytes(4, "little") + where)
    assert b["hello-ack-plain"][32:48] == token and b["reset"][32:] == token


def main():
    b, psk = blocks(sys.argv[1]), count_up(0)
    check_sealing(b)
    check_macs(b, psk)
    check_noise(b, psk)
    check_reset(b)
    print("every example agrees")


main()
