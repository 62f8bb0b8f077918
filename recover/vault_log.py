"""One database's log: the chain of its objects, and which writers count. Written from docs/vault-format.md."""

import datetime
import json
import re
import sys
from pathlib import Path

from vault_objects import Item, Problem, Untrusted, lsn, show_lsn


def timeline_at(history, position):
    for entry in history["entries"]:
        if position < lsn(entry["switch"]):
            return entry["timeline"]
    return history["timeline"]


def ancestry(history):
    return [(entry["timeline"], lsn(entry["switch"])) for entry in history["entries"]]


class Chain:
    """A walk along the log. Every object is checked against what the chain says must stand there."""

    def __init__(self, folder, base, trust, verify_all=False):
        self.folder, self.base, self.trust, self.verify_all = folder, base, trust, verify_all
        self.identity = Item(folder, base / "identity")
        self.identity.must(kind="identity", database=base.name)
        self.identity.verify()
        trust.check(self.identity)
        facts = json.loads(self.identity.read(None))
        self.system_id, self.segment_size = facts["system_id"], facts["segment_size"]
        if self.segment_size not in [1 << bits for bits in range(20, 31)]:
            raise Problem(self.identity.key, f"{self.segment_size} is not the size of a WAL segment")
        origin = lsn(facts["origin"])
        self.place, self.before, self.ahead = (0, origin), ((0, origin), self.identity.digest), None
        self.owner, self.taker, self.opened_by = None, None, None
        self.lineage, self.history = "origin", facts["history"]
        self.chunks, self.last = [], None

    def file(self, place):
        return self.base / "log" / f"{place[0]:016X}" / f"{place[1]:016X}"

    def walk(self):
        while self.file(self.place).exists():
            item = Item(self.folder, self.file(self.place))
            try:
                self.take(item)
            except Untrusted as reason:
                print(f"The log ends at {show_lsn(self.place[1])}: {reason}", file=sys.stderr)
                break
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Problem(item.key, f"its header is not that of a {item.kind} ({error!r})") from None
        # What an owner signed last stands, by the digests, for everything before it.
        if self.last:
            self.last.verify()
        return self

    def take(self, item):
        if item.kind not in ("chunk", "seal"):
            raise Problem(item.key, f"a {item.kind} does not belong into a log")
        item.must(database=self.base.name, system_id=self.system_id)
        self.trust.check(item)
        if item.at() != self.place:
            raise Problem(item.key, "belongs elsewhere: its epoch and start are not those of its key")
        self.follows(item)
        self.chunk(item) if item.kind == "chunk" else self.seal(item)
        self.last = item

    def follows(self, item):
        expected = [self.before] if self.ahead is None else [self.ahead, self.before]
        if item.kind == "seal" and item.subject["ahead"]:
            expected = []
        found = [((link["at"]["epoch"], lsn(link["at"]["start"])), link["hash"]) for link in item.subject["prev"]]
        if found != expected:
            raise Problem(item.key, "it does not follow the object before it (prev), so one of the two is not the original")

    def chunk(self, item):
        subject, start, end = item.subject, self.place[1], lsn(item.subject["end"])
        if self.owner is None or item.owner != self.owner:
            raise Problem(item.key, "made by another writer than the owner of its epoch")
        opened_by = (subject["opened_by"]["epoch"], lsn(subject["opened_by"]["start"]))
        timeline = timeline_at(self.history, start)
        if (opened_by, subject["lineage"], subject["timeline"]) != (self.opened_by, self.lineage, timeline):
            raise Problem(item.key, "its seal, lineage or timeline is not the chain's")
        if not start < end or start // self.segment_size != (end - 1) // self.segment_size:
            raise Problem(item.key, "its end is not behind its start in the same segment")
        if timeline_at(self.history, end - 1) != timeline or item.body["plain_len"] != end - start:
            raise Problem(item.key, "it crosses a switch of timelines, or its length is not the distance of its ends")
        if self.verify_all:
            item.verify()
        self.chunks.append(item)
        self.before, self.ahead, self.place = (item.at(), item.digest), None, (self.place[0], end)

    def seal(self, item):
        if self.last and self.last.kind == "chunk":
            self.last.verify()
        item.verify()
        subject, start, next_start = item.subject, self.place[1], lsn(item.subject["next_start"])
        if subject["ahead"] and subject["seal"] != "takeover":
            raise Problem(item.key, "only a takeover may be put ahead")
        wrong = getattr(self, "wrong_" + subject["seal"], lambda *_: "an unknown kind of seal")(item, start, next_start)
        if wrong:
            raise Problem(item.key, f"this {subject['seal']} is not allowed here: {wrong}")
        opens = subject["seal"] != "takeover"
        self.owner, self.taker = (item.owner, None) if opens else (None, item.owner)
        self.lineage, self.history = subject["lineage"]["id"], subject["lineage"]["history"]
        self.opened_by, here = item.at(), (item.at(), item.digest)
        if subject["ahead"]:
            # Whoever comes next names this seal and what stands before it.
            self.ahead = here
        else:
            self.before, self.ahead = here, None
        self.place = (self.place[0] + 1, next_start)

    def wrong_claim(self, item, start, next_start):
        lineage, old, new = item.subject["lineage"], ancestry(self.history), ancestry(item.subject["lineage"]["history"])
        same = (new, lineage["history"]["timeline"]) == (old, self.history["timeline"])
        left = new[: len(old)] == old and len(new) > len(old) and new[len(old)][0] == self.history["timeline"]
        if lineage["id"] != self.lineage or not (same or left and new[len(old)][1] >= start):
            return "its line of history is not the log's"
        return None if next_start == start else "a claim does not move the log"

    def wrong_takeover(self, item, start, next_start):
        lineage = item.subject["lineage"]
        same = lineage["id"] == self.lineage and ancestry(lineage["history"]) == ancestry(self.history)
        if not same or lineage["history"]["timeline"] != self.history["timeline"]:
            return "it changes the line of history"
        return None if next_start == start else "a takeover does not move the log"

    def wrong_promote(self, item, start, next_start):
        history = item.subject["lineage"]["history"]
        kept = [entry for entry in ancestry(self.history) if entry[1] <= next_start]
        left = timeline_at(self.history, next_start)
        if item.owner != self.taker:
            return "its maker has not taken the log over"
        if ancestry(history) != kept + [(left, next_start)] or history["timeline"] <= left:
            return "its history is not the log's up to where it begins"
        return None if next_start <= start else "it begins behind the end of the log"

    def behind(self):
        """Why the end of the walk is a hole and not the end: an object that can only stand on what is missing."""
        for path in sorted((self.base / "log").glob("*/*")):
            if not re.fullmatch("[0-9A-F]{16}", path.name) or not re.fullmatch("[0-9A-F]{16}", path.parent.name):
                continue
            place = (int(path.parent.name, 16), int(path.name, 16))
            if place <= self.place:
                continue
            item = Item(self.folder, path)
            stored = item.subject.get("stored")
            if item.kind == "chunk" and item.owner == self.owner and stored and lsn(stored["end"]) > self.place[1]:
                return item
            if place[0] > self.place[0] and not item.subject.get("ahead"):
                return item
        return None


def walk(folder, base, trust, options):
    chain = Chain(folder, base, trust, getattr(options, "all", False)).walk()
    behind = chain.behind()
    if behind:
        missing = chain.file(chain.place).relative_to(folder).as_posix()
        text = f"missing: {behind.key} can only have been made after it"
        if (base / "index").exists():
            text += "; if its chunks have expired: this script does not read the segments that took their place"
        if not getattr(options, "stop_at_hole", False):
            raise Problem(missing, text, "fetch it again; if it is lost, --stop-at-hole restores what stands before it")
        print(f"WARNING: {missing}: {text}. Everything from {show_lsn(chain.place[1])} on is lost.")
    return chain


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
        if writer not in self.keys:
            raise Untrusted(item.key, f"signed for by {writer or 'nobody'}, who is not among the trusted writers")
        until = self.keys[writer]
        if until and not (item.key in self.stored and self.stored[item.key] <= until):
            raise Untrusted(item.key, f"stored after its writer's key was revoked ({until})", "restore to before that time")


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
