"""What a real database seldom does, and the reader of recover/ must get right: promotes that cut what chunks and segments
hold, one timeline number twice, sealers that slept, objects that are lost. The vault is forged here, signatures and all.

    python3 segments.py FOLDER-OF-RECOVER EMPTY-FOLDER
"""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from vault_log import Database, Trust, timeline_at
from vault_objects import BASE, ORDER, Item, Problem, multiply, pack, show_lsn

ROOT = Path(sys.argv[2])
BASE_FOLDER, KEY = ROOT / "v1/db/x", ROOT / "escrow.txt"
SEGMENT = 1 << 20
subprocess.run(["age-keygen", "-o", KEY], check=True, stderr=subprocess.DEVNULL)
RECIPIENT = subprocess.run(["age-keygen", "-y", KEY], check=True, capture_output=True, text=True).stdout.strip()


class Maker:
    """An incarnation: its nonce and its Ed25519 key."""

    def __init__(self, n):
        digest = hashlib.sha512(bytes([n]) * 32).digest()
        self.nonce, self.prefix = bytes([n]) * 16, digest[32:]
        self.secret = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
        self.public = pack(multiply(self.secret, BASE))

    def sign(self, message):
        def number(*parts):
            return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % ORDER

        r = number(self.prefix, message)
        point = pack(multiply(r, BASE))
        return point + ((r + number(point, self.public, message) * self.secret) % ORDER).to_bytes(32, "little")

    def put(self, key, subject, plain=None, encoding="age(zstd)"):
        """Stores an object; returns the digest of its header block."""
        header = {"subject": {"database": "x", "system_id": "7", **subject}, "created": "2026-01-01T00:00:00Z"}
        header.update(nonce=self.nonce.hex(), key=self.public.hex())
        stored = plain or b""
        if plain is not None:
            if encoding == "age(zstd)":
                stored = subprocess.run(["zstd", "-qc"], input=plain, check=True, capture_output=True).stdout
                stored = subprocess.run(["age", "-r", RECIPIENT], input=stored, check=True, capture_output=True).stdout
            header["body"] = {"encoding": encoding}
            for prefix, what in (("", stored), ("plain_", plain)):
                header["body"].update({prefix + "len": len(what), prefix + "sha256": hashlib.sha256(what).hexdigest()})
        text = json.dumps(header).encode()
        block = b"HOLDFAST" + (1).to_bytes(2, "big") + len(text).to_bytes(4, "big") + text
        block += self.sign(block)
        (BASE_FOLDER / key).parent.mkdir(parents=True, exist_ok=True)
        (BASE_FOLDER / key).write_bytes(block + stored)
        return hashlib.sha256(block).hexdigest()


ARCHIVER = Maker(9)


class Log:
    """A writer's side of the chain."""

    def __init__(self, origin):
        self.at, self.lineage, self.opener, self.branch = (0, origin), {"id": "origin", "history": history(1)}, None, 0
        facts = {"system_id": "7", "history": history(1), "segment_size": SEGMENT, "origin": show_lsn(origin)}
        digest = Maker(1).put("identity", {"kind": "identity"}, json.dumps(facts).encode(), "plain")
        self.prev, self.stored = [{"at": self.here(), "hash": digest}], None

    def here(self):
        return {"epoch": self.at[0], "start": show_lsn(self.at[1])}

    def key(self):
        return f"log/{self.at[0]:016X}/{self.at[1]:016X}"

    def place(self):
        place = {"at": self.here(), "prev": self.prev, "lineage": self.lineage}
        return {**place, "opener": self.opener} if self.opener else place

    def seal(self, kind, maker, next_start=None, lineage=None, ahead=False):
        next_start = self.at[1] if next_start is None else next_start
        said = {"seal": kind, "next_start": show_lsn(next_start), "ahead": ahead, "by": "test"}
        subject = {**said, "kind": "seal", **self.here(), "lineage": lineage or self.lineage}
        digest = maker.put(self.key(), {**subject, "prev": [] if ahead else self.prev})
        self.opener = {**said, "at": self.here(), "nonce": maker.nonce.hex(), "key": maker.public.hex()}
        self.prev = [{"at": self.here(), "hash": digest}] + (self.prev[:1] if ahead else [])
        self.maker, self.at, self.stored = maker, (self.at[0] + 1, next_start), None
        if lineage:
            self.lineage, self.branch = lineage, self.at[0]

    def chunk(self, wal):
        """Returns the file of the chunk."""
        file, end = BASE_FOLDER / self.key(), self.at[1] + len(wal)
        subject = {"kind": "chunk", **self.here(), "end": show_lsn(end), "lineage": self.lineage["id"]}
        subject.update(timeline=timeline_at(self.lineage["history"], self.at[1]), opened_by=self.opener["at"])
        if self.stored:
            subject["stored"] = self.stored
        digest = self.maker.put(self.key(), {**subject, "prev": self.prev}, wal)
        self.prev, self.at = [{"at": self.here(), "hash": digest}], (self.at[0], end)
        self.stored = {"link": self.prev[0], "end": show_lsn(end)}
        return file


def history(timeline, *ancestors):
    entries = [{"timeline": of, "switch": show_lsn(at), "reason": ""} for of, at in ancestors]
    return {"timeline": timeline, "entries": entries}


def segment(line, start, wal, prev, through):
    """Returns the link that names it, and its file."""
    at = {"branch": line[0], "timeline": line[1], "start": show_lsn(start)}
    key = f"segment/{line[0]:016X}-{line[1]:08X}/{start:016X}"
    through = {name: through[name] for name in ("at", "prev")}
    subject = {"kind": "segment", **at, "end": show_lsn(start + len(wal)), "lineage": "any", "through": through}
    digest = ARCHIVER.put(key, {**subject, "prev": prev} if prev else subject, wal)
    return {"at": at, "hash": digest}, BASE_FOLDER / key


def index(n, place, archived, last, prev):
    subject = {"kind": "index", "n": n, "place": place, "archived": archived, "segment": last}
    return {"n": n, "hash": ARCHIVER.put(f"index/{n:016X}", {**subject, "prev": prev} if prev else subject)}


def read(first, stop_at_hole=False):
    trust, quiet = Trust(None, None), lambda *_: None
    options = SimpleNamespace(trust=trust, all=True, stop_at_hole=stop_at_hole, progress=quiet)
    pieces = Database(ROOT, BASE_FOLDER, options).wal(first)
    assert all(piece.end == after.start for piece, after in zip(pieces, pieces[1:])), pieces
    return b"".join(Item(ROOT, piece.path).read(KEY)[: piece.end - piece.start] for piece in pieces)


def refuses(first, *words):
    try:
        read(first)
    except Problem as problem:
        assert all(word in str(problem) for word in words), f"{words}: {problem}"
    else:
        raise AssertionError(f"not refused: {words}")


def main():
    wal = random.Random(1).randbytes
    origin = 3 * SEGMENT
    cut, second_cut = origin + SEGMENT + 1500, origin + SEGMENT + 1400
    log = Log(origin)
    log.seal("claim", Maker(2))
    a, b, c, d, e, f, g = wal(SEGMENT // 2), wal(SEGMENT // 2), wal(1000), wal(2000), wal(300), wal(700), wal(800)
    chunks = [log.chunk(a), log.chunk(b)]
    first, first_file = segment((0, 1), origin, a + b, None, log.place())
    newest = index(0, log.place(), log.place(), first, None)
    # A takeover put ahead, and a promote that cuts most of the last chunk: timeline 2.
    chunks += [log.chunk(c), log.chunk(d)]
    through = log.place()
    log.seal("takeover", Maker(3), ahead=True)
    log.seal("promote", Maker(3), cut, {"id": "b", "history": history(2, (1, cut))})
    second, _ = segment((0, 1), origin + SEGMENT, c + d[:500], first, through)
    # Another one, that cuts all of that timeline and more of the first: timeline 2 again.
    chunks.append(log.chunk(e))
    third, _ = segment((log.branch, 2), cut, e, second, log.place())
    newest = index(1, log.place(), log.place(), third, newest)
    log.seal("takeover", Maker(4))
    log.seal("promote", Maker(4), second_cut, {"id": "c", "history": history(2, (1, second_cut))})
    chunks.append(log.chunk(f))
    fourth, fourth_file = segment((log.branch, 2), second_cut, f, third, log.place())
    newest = index(2, log.place(), log.place(), fourth, newest)
    newest_file = BASE_FOLDER / "index/0000000000000002"
    log.chunk(g)
    truth = a + b + c + d[:400] + f + g

    assert read(origin) == truth and read(origin + SEGMENT) == truth[SEGMENT:]
    (BASE_FOLDER / "index").rename(ROOT / "away")
    assert read(origin) == truth, "by chunks alone"
    (ROOT / "away").rename(BASE_FOLDER / "index")
    last = fourth_file.read_bytes()
    fourth_file.unlink()
    assert read(origin) == truth, "an older index, and chunks from there on"
    fourth_file.write_bytes(last)
    for chunk in chunks:
        chunk.unlink()
    assert read(origin) == truth, "by segments"
    asleep = Log(origin)
    asleep.at, asleep.prev = (1, origin), log.prev
    asleep.seal("claim", Maker(8))
    assert read(origin) == truth, "a seal at a key that came free"

    fourth_file.unlink()
    refuses(origin, fourth_file.name, "missing")
    assert read(origin, stop_at_hole=True) == truth[: SEGMENT + 1400], "what stands before the hole, and nothing that was cut"
    fourth_file.write_bytes(last)
    kept = first_file.read_bytes()
    first_file.unlink()
    refuses(origin, first_file.name, "missing")
    assert read(origin + SEGMENT) == truth[SEGMENT:], "what has expired is not asked for"
    first_file.write_bytes(kept)
    kept = newest_file.read_bytes()
    newest_file.unlink()
    refuses(origin, "missing", "can only have been made after it")
    newest_file.write_bytes(kept[:40] + b"?" + kept[41:])
    refuses(origin, "missing", "can only have been made after it")


if __name__ == "__main__":
    main()
