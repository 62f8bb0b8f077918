"""The objects of a vault: header, signature, body. Written from docs/vault-format.md."""

import hashlib
import json
import subprocess
import tempfile

MAGIC, VERSION = b"HOLDFAST", 1
MAX_HEADER = 65536
MAX_STORED, MAX_PLAIN = 65 << 20, 64 << 20


class Problem(Exception):
    """What is wrong, where, and what to do."""

    def __init__(self, where, what, hint="fetch this object again and compare its versions (the page, step 2)"):
        super().__init__(f"{where}: {what}\n  what to do: {hint}")


class Untrusted(Problem):
    """The object is whole, but its writer is not believed."""


# ---------------------------------------------------------------------------------------------------------------------
# Ed25519 (RFC 8032, section 5.1.7). The standard library has none, and `openssl pkeyutl` differs between versions and
# costs a process for every signature. Only verification: nothing here is secret, so nothing here need be constant-time.

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def add(a, b):
    """Adds two points in extended coordinates (x, y, z, xy)."""
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(times, base):
    result = (0, 1, 1, 0)
    while times:
        if times & 1:
            result = add(result, base)
        base, times = add(base, base), times >> 1
    return result


def pack(p):
    inverse = pow(p[2], P - 2, P)
    x, y = p[0] * inverse % P, p[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def point(text):
    """The point, or None where the bytes are no point or not its one proper form."""
    y = int.from_bytes(text, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
NEUTRAL = (1).to_bytes(32, "little")


def signature_holds(key, signature, message):
    """Strictly: s below the order, R compared byte by byte, neither point of small order."""
    a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= ORDER or pack(multiply(8, a)) == NEUTRAL or pack(multiply(8, r)) == NEUTRAL:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % ORDER
    minus_a = (P - a[0], a[1], 1, P - a[3])
    return pack(add(multiply(s, BASE), multiply(k, minus_a))) == signature[:32]


# ---------------------------------------------------------------------------------------------------------------------
# Objects


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def show_lsn(position):
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


class Item:
    """One object: its header, checked as far as it can be without the others."""

    def __init__(self, folder, path):
        self.path, self.key = path, path.relative_to(folder).as_posix()
        with open(path, "rb") as file:
            start = file.read(14)
            if start[:8] != MAGIC or len(start) < 14:
                raise Problem(self.key, "this is not an object of a vault")
            version, length = int.from_bytes(start[8:10], "big"), int.from_bytes(start[10:14], "big")
            if version != VERSION:
                raise Problem(self.key, f"format version {version}; this script knows 1", "take the script of that version")
            if length > MAX_HEADER:
                raise Problem(self.key, f"a header of {length} bytes; at most {MAX_HEADER} are allowed")
            self.block = start + file.read(length + 64)
        if len(self.block) != 78 + length:
            raise Problem(self.key, "truncated: the header is not whole")
        self.digest = hashlib.sha256(self.block).hexdigest()
        try:
            self.header = json.loads(self.block[14 : 14 + length].decode())
            self.subject, self.kind = self.header["subject"], self.header["subject"]["kind"]
            self.owner = (bytes.fromhex(self.header["nonce"]), bytes.fromhex(self.header["key"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Problem(self.key, f"its header cannot be read ({error})") from None
        self.offset, self.body, self.verified = 78 + length, self.header.get("body"), False
        self.check_lengths()

    def check_lengths(self):
        stored = self.path.stat().st_size - self.offset
        expected = self.body["len"] if self.body else 0
        if expected > MAX_STORED or (self.body and self.body["plain_len"] > MAX_PLAIN):
            raise Problem(self.key, f"its header announces {expected} bytes, more than an object may have")
        if stored != expected:
            raise Problem(self.key, f"truncated or padded: {stored} bytes of body where the header says {expected}")

    def verify(self):
        """The signature of the header, and of the voucher where there is one."""
        if self.verified:
            return
        if not signature_holds(self.owner[1], self.block[-64:], self.block[:-64]):
            raise Problem(self.key, "the signature does not hold")
        voucher = self.header.get("voucher")
        if voucher:
            text = b"holdfast-voucher-v1\n" + self.owner[0] + self.owner[1]
            if not signature_holds(bytes.fromhex(voucher["key"]), bytes.fromhex(voucher["signature"]), text):
                raise Problem(self.key, "the voucher's signature does not hold")
        self.verified = True

    def must(self, **expected):
        """The object belongs where it stands: a valid object of another place is refused."""
        for name, value in expected.items():
            if self.subject.get(name) != value:
                raise Problem(self.key, f"belongs elsewhere: {name} is {self.subject.get(name)!r} and not {value!r}")

    def at(self):
        return self.subject["epoch"], lsn(self.subject["start"])

    def read(self, keys):
        """The body as it was before it was sealed. `keys` is the identity file."""
        if not self.body:
            raise Problem(self.key, "it has no body")
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            stored = file.read()
        if hashlib.sha256(stored).hexdigest() != self.body["sha256"]:
            raise Problem(self.key, "damaged: the digest of its body is not the one that was signed")
        plain = stored if self.body["encoding"] == "plain" else self.unseal(stored, keys)
        if len(plain) != self.body["plain_len"] or hashlib.sha256(plain).hexdigest() != self.body["plain_sha256"]:
            raise Problem(self.key, "what came out is not what went in (length or digest)")
        return plain

    def unseal(self, stored, keys):
        """age, then zstd; never more than the announced length is taken from them."""
        if self.body["encoding"] != "age(zstd)":
            raise Problem(self.key, f"unknown encoding {self.body['encoding']!r}", "take a newer script")
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as complaints:
            source.write(stored)
            source.seek(0)
            age = subprocess.Popen(["age", "-d", "-i", str(keys)], stdin=source, stdout=subprocess.PIPE, stderr=complaints)
            zstd = subprocess.Popen(["zstd", "-dcq"], stdin=age.stdout, stdout=subprocess.PIPE, stderr=complaints)
            age.stdout.close()
            plain = zstd.stdout.read(self.body["plain_len"] + 1)
            zstd.stdout.close()
            failed = [name for name, child in (("zstd", zstd), ("age", age)) if child.wait() != 0]
            if failed and len(plain) <= self.body["plain_len"]:
                complaints.seek(0)
                said = complaints.read(400).decode(errors="replace").strip().replace("\n", "; ")
                hint = "is this the identity (private key) that the vault was sealed to? `age -d -i FILE` asks the same"
                raise Problem(self.key, f"{failed[-1]} refuses it: {said}", hint)
        return plain
