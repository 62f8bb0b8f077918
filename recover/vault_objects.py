"""The objects of a vault: header, signature, body. Written from docs/vault-format.md."""

import contextlib
import hashlib
import json
import subprocess
import tempfile

MAGIC, VERSION = b"HOLDFAST", 1
MAX_HEADER, MAX_STORED, MAX_PLAIN = 65536, 65 << 20, 64 << 20


class Problem(Exception):
    """What is wrong, where, and what to do."""

    def __init__(self, where, what, hint="remove this file, fetch it again (the page, step 2), and compare its versions"):
        super().__init__(f"{where}: {what}\n  what to do: {hint}")
        self.where = where


class Untrusted(Problem):
    """The object is whole, but its writer is not believed."""


@contextlib.contextmanager
def reading(key, what):
    """Nothing that an object says may end in an error that does not name the object."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise Problem(key, f"it cannot be read as {what} ({error!r})") from None


# ---------------------------------------------------------------------------------------------------------------------
# Ed25519 (RFC 8032, section 5.1.7). The standard library has none, and `openssl pkeyutl` differs between versions and
# costs a process for every signature. Only verification: nothing here is secret, so nothing here need be constant-time.

P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
NEUTRAL = (1).to_bytes(32, "little")


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
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if y >= P or v * x * x % P != u or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


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
    high, low = (int(half, 16) for half in text.split("/"))
    if not (0 <= high < 1 << 32 and 0 <= low < 1 << 32):
        raise ValueError(f"{text!r} is no position")
    return high << 32 | low


def show_lsn(position):
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


class Item:
    """One object: its header, checked as far as it can be without the others."""

    def __init__(self, folder, path):
        self.path, self.key = path, path.relative_to(folder).as_posix()
        if not path.exists():
            raise Problem(self.key, "missing", "fetch it again (the page, step 2)")
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
        self.offset, self.verified = 78 + length, False
        if len(self.block) != self.offset:
            raise Problem(self.key, "truncated: the header is not whole")
        self.digest = hashlib.sha256(self.block).hexdigest()
        with reading(self.key, "an object"):
            self.header = json.loads(self.block[14:-64].decode())
            self.subject, self.kind = self.header["subject"], self.header["subject"]["kind"]
            self.owner = (bytes.fromhex(self.header["nonce"]), bytes.fromhex(self.header["key"]))
            if [len(part) for part in self.owner] != [16, 32]:
                raise ValueError("nonce or key of a wrong length")
            self.body = self.header.get("body")
            expected, plain = (self.body["len"], self.body["plain_len"]) if self.body else (0, 0)
            stored = path.stat().st_size - self.offset
            if not (0 <= expected <= MAX_STORED and 0 <= plain <= MAX_PLAIN):
                raise Problem(self.key, f"its header announces {expected} bytes, {plain} when opened: no object is so long")
        if stored != expected:
            raise Problem(self.key, f"truncated or padded: {stored} bytes of body where the header says {expected}")

    def verify(self):
        """The signature of the header, and of the voucher where there is one."""
        if self.verified:
            return
        if not signature_holds(self.owner[1], self.block[-64:], self.block[:-64]):
            raise Problem(self.key, "the signature does not hold")
        with reading(self.key, "an object with a voucher"):
            voucher = self.header.get("voucher")
            text = b"holdfast-voucher-v1\n" + self.owner[0] + self.owner[1]
            if voucher and not signature_holds(bytes.fromhex(voucher["key"]), bytes.fromhex(voucher["signature"]), text):
                raise Problem(self.key, "the voucher's signature does not hold")
        self.verified = True

    def must(self, **expected):
        """The object belongs where it stands: a valid object of another place is refused."""
        for name, value in expected.items():
            if self.subject.get(name) != value:
                raise Problem(self.key, f"belongs elsewhere: {name} is {self.subject.get(name)!r} and not {value!r}")

    def read(self, keys):
        """The body as it was before it was sealed. `keys` is the identity file."""
        if not self.body:
            raise Problem(self.key, "it has no body")
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            stored = file.read(MAX_STORED)
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
