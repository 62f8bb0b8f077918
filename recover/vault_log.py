"""One database's log: its chain, the segments that took the place of chunks, and which writers count.
Written from docs/vault-format.md."""

import datetime
import itertools
import json
import re
import sys
from collections import namedtuple
from pathlib import Path

from vault_objects import Item, Problem, Untrusted, lsn, reading, show_lsn

# WAL of one timeline, and the object that holds it from `start` on (with more behind `end`, where it was cut there).
Piece = namedtuple("Piece", "start end timeline path digest")
NUMBER = "[0-9A-F]{16}"


def timeline_at(history, position):
    return next((timeline for timeline, switch in ancestry(history) if position < switch), history["timeline"])


def ancestry(history):
    return [(entry["timeline"], lsn(entry["switch"])) for entry in history["entries"]]


def place_of(at):
    return at["epoch"], lsn(at["start"])


def links(found):
    return [(place_of(link["at"]), link["hash"]) for link in found]


def warn(text):
    print(f"WARNING: {text}", file=sys.stderr)


class Chain:
    """A walk along the log from a place of it. Every object is checked against what the chain says must stand there."""

    def __init__(self, db, place):
        self.db, self.place, self.prev = db, place_of(place["at"]), links(place["prev"])
        self.lineage, self.history = place["lineage"]["id"], place["lineage"]["history"]
        self.owner = self.taker = self.opened_by = self.last = None
        self.pieces, opener, holds = [], place.get("opener"), self.place == (0, db.origin)
        if opener:
            owner = (bytes.fromhex(opener["nonce"]), bytes.fromhex(opener["key"]))
            self.owner, self.taker = (None, owner) if opener["seal"] == "takeover" else (owner, None)
            self.opened_by = place_of(opener["at"])
            holds = self.opened_by[0] + 1 == self.place[0] and db.origin <= lsn(opener["next_start"]) <= self.place[1]
            db.trust.writers[owner] = bech32(opener["writer"]).hex() if opener.get("writer") else None
        if not holds or len(self.prev) not in (1, 2) or ancestry(self.history) != sorted(ancestry(self.history)):
            raise ValueError(f"{show_lsn(self.place[1])} in epoch {self.place[0]} cannot be a place of this log")

    def walk(self, until=None):
        while self.place != until and self.db.log(self.place).exists():
            item = Item(self.db.folder, self.db.log(self.place))
            try:
                with reading(item.key, f"a {item.kind}"):
                    self.take(item)
            except Untrusted as reason:
                if until:
                    raise
                print(f"The log ends at {show_lsn(self.place[1])}: {reason}", file=sys.stderr)
                break
            self.db.progress(f"checking the log of {self.db.name}", len(self.pieces), self.db.objects + 1)
        # What an owner signed last stands, by the digests, for everything before it.
        if self.last:
            self.last.verify()
        return self

    def take(self, item):
        if item.kind not in ("chunk", "seal"):
            raise Problem(item.key, f"a {item.kind} does not belong into a log")
        item.must(database=self.db.name, system_id=self.db.system_id)
        if place_of(item.subject) != self.place:
            raise Problem(item.key, "belongs elsewhere: its epoch and start are not those of its key")
        self.db.trust.check(item)
        if links(item.subject["prev"]) != ([] if item.kind == "seal" and item.subject.get("ahead") else self.prev):
            raise Problem(item.key, "it does not follow the object before it (prev), so one of the two is not the original")
        self.chunk(item, item.subject) if item.kind == "chunk" else self.seal(item, item.subject)
        self.last = item

    def chunk(self, item, subject):
        start, end = self.place[1], lsn(subject["end"])
        if self.owner is None or item.owner != self.owner:
            raise Problem(item.key, "made by another writer than the owner of its epoch")
        self.db.wal_fits(item, start, end)
        timelines = {subject["timeline"], timeline_at(self.history, start), timeline_at(self.history, end - 1)}
        if place_of(subject["opened_by"]) != self.opened_by or subject["lineage"] != self.lineage or len(timelines) > 1:
            raise Problem(item.key, "its seal, lineage or timeline is not the chain's")
        if self.db.verify_all:
            item.verify()
        self.pieces.append(Piece(start, end, subject["timeline"], item.path, item.digest))
        self.prev, self.place = [(self.place, item.digest)], (self.place[0], end)

    def seal(self, item, subject):
        if self.last:
            self.last.verify()
        item.verify()
        kind, ahead, next_start = subject["seal"], subject.get("ahead"), lsn(subject["next_start"])
        wrong = self.wrong(item.owner, kind, subject["lineage"], next_start)
        if ahead and kind != "takeover" or wrong:
            raise Problem(item.key, f"this {kind} is not allowed here: {wrong or 'only a takeover may be put ahead'}")
        self.owner, self.taker = (None, item.owner) if kind == "takeover" else (item.owner, None)
        self.lineage, self.history, self.opened_by = subject["lineage"]["id"], subject["lineage"]["history"], self.place
        # Whoever comes after a seal put ahead names that seal and what stands before it.
        self.prev = [(self.place, item.digest)] + (self.prev[:1] if ahead else [])
        self.place = (self.place[0] + 1, next_start)

    def wrong(self, owner, kind, lineage, next_start):
        old, new, timeline = ancestry(self.history), ancestry(lineage["history"]), lineage["history"]["timeline"]
        if kind == "promote":
            left = timeline_at(self.history, next_start)
            if owner != self.taker:
                return "its maker has not taken the log over"
            if new != [entry for entry in old if entry[1] <= next_start] + [(left, next_start)] or timeline <= left:
                return "its history is not the log's up to where it begins"
            return None if self.db.origin <= next_start <= self.place[1] else "it begins outside of the log"
        same = (new, timeline) == (old, self.history["timeline"])
        if kind == "claim" and new[: len(old)] == old and len(new) > len(old):
            same = new[len(old)][0] == self.history["timeline"] and new[len(old)][1] >= self.place[1]
        if kind not in ("claim", "takeover") or lineage["id"] != self.lineage or not same:
            return "its line of history is not the log's"
        return None if next_start == self.place[1] else f"a {kind} does not move the log"

    def behind(self):
        """An object that can only have been made after what is missing at the end of the walk: the end is a hole."""
        here, db = f"{self.place[0]:016X}/{self.place[1]:016X}", self.db
        log = [path for path in sorted((db.base / "log").glob("*/*")) if f"{path.parent.name}/{path.name}" > here]
        for path in log + sorted((db.base / "segment").glob("*/*"))[-16:]:
            try:
                item = Item(db.folder, path)
                item.must(database=db.name, system_id=db.system_id)
                with reading(item.key, "an object behind the end of the log"):
                    subject, stored = item.subject, item.subject.get("stored")
                    if item.kind == "segment":
                        after = place_of(subject["through"]["at"]) > self.place
                    elif item.kind == "chunk" and item.owner == self.owner:
                        after = stored and lsn(stored["end"]) > self.place[1]
                    else:
                        after = place_of(subject)[0] > self.place[0] and not subject.get("ahead")
                    if after and (item.kind == "segment" or path == db.log(place_of(subject))):
                        db.trust.check(item)
                        item.verify()
                        return item
            except Problem:
                continue  # Rubbish, or by somebody who is not believed: it proves nothing.
        return None


class Database:
    """What stands below `db/<name>`: which database it is, its log, and the segments of what the log's chunks held."""

    def __init__(self, folder, base, options):
        self.folder, self.base, self.name, self.known = folder, base, base.name, {}
        self.trust, self.verify_all, self.stop_at_hole = options.trust, options.all, options.stop_at_hole
        self.progress, self.objects = options.progress, sum(1 for _ in (base / "log").glob("*/*"))
        identity = Item(folder, base / "identity")
        identity.must(kind="identity", database=self.name)
        identity.verify()
        self.trust.check(identity)
        with reading(identity.key, "an identity"):
            facts = json.loads(identity.read(None))
            self.system_id, self.segment_size, self.origin = facts["system_id"], facts["segment_size"], lsn(facts["origin"])
            if self.segment_size not in [1 << bits for bits in range(20, 31)]:
                raise Problem(identity.key, f"{self.segment_size} is not the size of a WAL segment")
            at, lineage = {"epoch": 0, "start": facts["origin"]}, {"id": "origin", "history": facts["history"]}
            self.genesis = {"at": at, "prev": [{"at": at, "hash": identity.digest}], "lineage": lineage}
        numbers = [path.name for path in (base / "index").glob("*") if re.fullmatch(NUMBER, path.name)]
        self.numbers = sorted((int(name, 16) for name in numbers), reverse=True)
        self.newest = next(self.indexes(), None)
        # From the place that the newest index calls `archived` on no chunk was ever deleted.
        self.tail = Chain(self, self.newest["archived"] if self.newest else self.genesis)
        self.kept = (self.tail.place, self.tail.prev)
        behind = self.tail.walk().behind()
        if behind:
            missing, text = self.key(self.log(self.tail.place)), f"missing: {behind.key} can only have been made after it"
            if not self.stop_at_hole:
                hint = "fetch it, and all below index/, again; if it is lost, --stop-at-hole restores what is before it"
                raise Problem(missing, text, hint)
            warn(f"{missing}: {text}. Everything from {show_lsn(self.tail.place[1])} on is lost.")

    def key(self, path):
        return path.relative_to(self.folder).as_posix()

    def log(self, place):
        return self.base / "log" / f"{place[0]:016X}" / f"{place[1]:016X}"

    def wal_fits(self, item, start, end):
        if not self.origin <= start < end or start // self.segment_size != (end - 1) // self.segment_size:
            raise Problem(item.key, "its end is not behind its start in the same WAL segment of this log")
        if not item.body or item.body["encoding"] != "age(zstd)" or item.body["plain_len"] != end - start:
            raise Problem(item.key, "its body is not as long as its WAL")

    def indexes(self):
        """Newest first, those that hold and say that WAL is in segments. What does not hold is passed over."""
        for n in self.numbers:
            if n not in self.known:
                try:
                    self.known[n] = self.index(n)
                except Problem as problem:
                    self.known[n] = None
                    warn(f"an index is passed over: {problem}")
            if self.known[n]:
                yield self.known[n]

    def index(self, n):
        item = Item(self.folder, self.base / "index" / f"{n:016X}")
        item.must(kind="index", database=self.name, system_id=self.system_id, n=n)
        self.trust.check(item)
        if self.known.get(("index", n)) != item.digest:  # What an index names that was verified needs no signature.
            item.verify()
        with reading(item.key, "an index"):
            prev, place, archived = (item.subject.get(name) for name in ("prev", "place", "archived"))
            if prev:
                self.known["index", prev["n"]] = prev["hash"]
            late = archived and Chain(self, archived).place > Chain(self, place).place
            if late or prev and prev["n"] >= n:
                raise Problem(item.key, "it names an index that comes after it, or segments that end after its place")
            return {"key": item.key, "archived": archived, "segment": item.subject["segment"]} if archived else None

    def segment(self, link, named_by):
        """The segment that a link names: its WAL, its line of history, and the link to the one before it."""
        at, start = link["at"], lsn(link["at"]["start"])
        name = f"{at['branch']:016X}-{at['timeline']:08X}/{start:016X}" + (f"-{at['copy']:02X}" if at.get("copy") else "")
        path = self.base / "segment" / name
        if not path.exists():
            hint = "fetch it again; if it has expired, a newer --backup does not need it; if it is lost: --stop-at-hole"
            raise Problem(self.key(path), f"missing: {named_by} names it, and the chunks of its WAL are gone", hint)
        item = Item(self.folder, path)
        item.must(kind="segment", database=self.name, system_id=self.system_id)
        item.must(branch=at["branch"], timeline=at["timeline"], start=at["start"])
        if item.digest != link["hash"]:
            raise Problem(item.key, f"this is not the segment that {named_by} names")
        self.trust.check(item)
        if self.verify_all:
            item.verify()
        with reading(item.key, "a segment"):
            end, before, line = lsn(item.subject["end"]), item.subject.get("prev"), (at["branch"], at["timeline"])
            self.wal_fits(item, start, end)
            earlier = (before["at"]["branch"], before["at"]["timeline"], lsn(before["at"]["start"])) if before else ()
            if earlier >= (*line, start) or lsn(item.subject["through"]["at"]["start"]) < end:
                raise Problem(item.key, "it cannot be a segment of any log")
        return Piece(start, end, at["timeline"], path, item.digest), line, before

    def segments(self, index, first, unusable):
        """Back from the one that an index names to the one that holds `first`; returned in the order of the log."""
        found, link, named_by, after = [], index["segment"], index["key"], None
        while link and not (found and found[-1].start <= first):
            if link["hash"] not in self.known:
                with reading(named_by, "what names the segment before it"):
                    self.known[link["hash"]] = self.segment(link, named_by)
            piece, line, link = self.known[link["hash"]]
            named_by = self.key(piece.path)
            if named_by in unusable:
                raise unusable[named_by]
            if after == line and piece.end != found[-1].start:
                raise Problem(named_by, f"it ends at {show_lsn(piece.end)}, and the next one does not begin there")
            after = line
            found.append(piece)
        return found[::-1]

    def wal(self, first, unusable=()):
        """All WAL from `first` to the end: by the newest index, or, where one of its segments cannot be used, by an older."""
        problem = None
        for index in itertools.chain(self.indexes(), [None]):
            try:
                return self.wal_by(index, first, unusable)
            except Problem as reason:
                problem = problem or reason
        for index in self.indexes() if self.stop_at_hole else ():
            try:
                pieces = self.wal_by(index, first, unusable, whole=False)
            except Problem:
                continue
            warn(f"everything from {show_lsn(pieces[-1].end)} on is lost: {problem}")
            return pieces
        raise problem

    def wal_by(self, index, first, unusable, whole=True):
        """The segments of an index, and chunks from there on, which must lead to the very place that the newest one names."""
        chain, between = self.tail, []
        if index is not self.newest or not whole:
            chain = Chain(self, index["archived"] if index else self.genesis).walk(self.kept[0])
            if whole and (chain.place, chain.prev) != self.kept:
                raise Problem(self.key(self.log(chain.place)), "missing, or not on the chain of the newest index")
            chain, between = (self.tail, chain.pieces) if whole else (chain, [])
        return self.joined((self.segments(index, first, unusable) if index else []) + between, chain, first)

    def joined(self, pieces, chain, first):
        """In the order of the log: where one begins before the end of those before it, a promote has cut them there."""
        joined = []
        for piece in (piece for piece in pieces + chain.pieces if piece.end > first):
            while joined and joined[-1].start >= piece.start:
                joined.pop()
            if joined and joined[-1].end < piece.start:
                raise Problem(self.key(piece.path), f"the WAL before it ends at {show_lsn(joined[-1].end)}")
            joined[-1:] = [before._replace(end=piece.start) for before in joined[-1:]] + [piece]
        end = chain.place[1]
        joined = [piece._replace(end=min(piece.end, end)) for piece in joined if piece.end > first and piece.start < end]
        if not joined or joined[0].start > first:
            raise Problem(self.name, f"the log has no WAL from {show_lsn(first)} on", "take a newer --backup")
        for piece in joined:
            if {timeline_at(self.tail.history, at) for at in (piece.start, piece.end - 1)} != {piece.timeline}:
                raise Problem(self.key(piece.path), "its timeline is not the one of the log there")
        return joined


# ---------------------------------------------------------------------------------------------------------------------
# Who is believed


def bech32(text):
    """The 32 bytes of `holdfast-writer1...` (BIP 173)."""
    alphabet, text = "qpzry9x8gf2tvdw0s3jn54khce6mua7l", text.strip().lower()
    prefix, _, data = text.rpartition("1")
    numbers = [alphabet.find(letter) for letter in data]
    check = 1
    for value in [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + numbers:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    if prefix != "holdfast-writer" or -1 in numbers or check != 1 or len(numbers) != 58:
        raise Problem(text, "this is not the public key of a writer", "it begins with holdfast-writer1")
    value = 0
    for number in numbers[:-6]:
        value = value << 5 | number
    return (value >> 4).to_bytes(32, "big")


def moment(text):
    when = datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00"))
    return when if when.tzinfo else when.replace(tzinfo=datetime.timezone.utc)


class Trust:
    """Which writers count: `KEY`, or `KEY@TIME` for a key that was revoked then. Without any, everybody."""

    def __init__(self, texts, versions):
        self.keys, self.stored, self.writers = {}, {}, {}
        for text in texts or []:
            key, _, until = text.partition("@")
            self.keys[bech32(key).hex()] = moment(until) if until else None
        if any(self.keys.values()) and not versions:
            raise Problem("--trust", "a revoked key needs the times of the store", "add --versions versions.json")
        for key, entries in by_key(versions).items() if versions else []:
            self.stored[key] = moment(oldest(entries)["LastModified"])

    def check(self, item):
        if not self.keys:
            return
        if item.kind == "chunk":
            writer = self.writers.get(item.owner)
        else:
            writer = (item.header.get("voucher") or {}).get("key")
            self.writers[item.owner] = writer
        self.admits(item, writer, self.stored.get(item.key))
        for written in item.subject.get("written") or [] if item.kind == "segment" else ():  # The chunks that it is made of.
            stored = written.get("stored")
            self.admits(item, bech32(written["writer"]).hex(), moment(stored) if stored else None)

    def admits(self, item, writer, stored):
        if writer not in self.keys:
            raise Untrusted(item.key, f"signed for by {writer or 'nobody'}, who is not among the trusted writers")
        until = self.keys[writer]
        hint = "restore to before that time" + (": --stop-at-hole" if item.kind == "segment" else "")
        if until and not (stored and stored <= until):
            raise Untrusted(item.key, f"stored after its writer's key was revoked ({until})", hint)


def by_key(path):
    """The versions and delete markers of each key, newest first, from `aws s3api list-object-versions`."""
    listing, keys = json.loads(Path(path).read_text() or "{}"), {}
    for kind in ("Versions", "DeleteMarkers"):
        for entry in listing.get(kind) or []:
            keys.setdefault(entry["Key"], []).append({**entry, "marker": kind == "DeleteMarkers"})
    return keys


def oldest(entries):
    """S3 lists a key's versions newest first."""
    return [entry for entry in entries if not entry["marker"]][-1]
