#!/usr/bin/env python3
"""Recover a PostgreSQL database from a Holdfast vault, without Holdfast: Python 3.9 or newer, `age` and `zstd`.

FOLDER holds the bucket's objects as any S3 client fetches them (key = path). docs/recover-by-hand.md tells how to
fetch them and what to do with the result, docs/vault-format.md what the bytes mean and what is checked.

    holdfast_recover.py versions versions.json --bucket hospital-vault --folder bucket > oldest.sh
    holdfast_recover.py list bucket
    holdfast_recover.py restore bucket --database billing --identity escrow.txt --output billing
    holdfast_recover.py restore bucket --database billing --identity escrow.txt --output before \\
        --to 2026-05-04T10:00:00+02:00
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True  # nothing is left beside this script
from vault_log import Database, Trust, ancestry, by_key, moment, oldest, timeline_at, warn
from vault_objects import Item, Problem, lsn, reading, show_lsn

CARRIED = ["max_connections", "max_locks_per_transaction", "max_prepared_transactions", "max_wal_senders"]
CARRIED += ["max_worker_processes"]
MANIFEST = ".holdfast-backup-manifest/"


class Progress:
    """A line with a percentage on standard error, every other second and at the end."""

    said = 0.0

    def __call__(self, what, done, total):
        if done >= total or time.monotonic() - self.said >= 2:
            self.said = time.monotonic()
            print(f"{what}: {min(100, 100 * done // total)} %", file=sys.stderr)


class Backup:
    def __init__(self, db, path):
        self.db, self.name, self.item = db, path.parent.name, Item(db.folder, path)
        self.item.must(kind="backup-manifest", database=db.name, system_id=db.system_id, backup=self.name)
        self.item.verify()
        db.trust.check(self.item)
        with reading(self.item.key, "the manifest of a backup"):
            manifest = json.loads(self.item.read(None))
            self.meta, self.parts, self.last_part = manifest["meta"], manifest["parts"], manifest["lastPart"]
            self.start, self.end, self.finished = lsn(self.meta["start"]), lsn(manifest["end"]), manifest["finished"]
            self.first = self.start // db.segment_size * db.segment_size  # the WAL that it needs
            self.bytes, self.version = manifest["plainBytes"], self.meta["serverVersion"]
            if (bytes.fromhex(manifest["nonce"]), bytes.fromhex(manifest["key"])) != self.item.owner:
                raise Problem(self.item.key, "its body names another maker than its header")

    def items(self):
        """The parts' headers, all of them checked before the first byte is used."""
        before, items = None, []
        for n in range(self.parts):
            item = Item(self.db.folder, self.item.path.with_name(f"{n:08d}"))
            item.must(kind="backup-part", database=self.db.name, system_id=self.db.system_id)
            item.must(backup=self.name, n=n, prev=before)
            if item.owner != self.item.owner:
                raise Problem(item.key, "made by another maker than the manifest")
            before, items = item.digest, items + [item]
        if before != self.last_part:
            raise Problem(self.item.key, "the last part is not the one that the manifest names")
        return items


def in_parallel(function, items, what, options, pool):
    """The results in order, a few at a time, so that memory stays small."""
    for at in range(0, len(items), 2 * options.workers):
        yield from pool.map(function, items[at : at + 2 * options.workers])
        options.progress(what, at + 2 * options.workers, len(items))


class Stream:
    """Bodies one after another, as a file for `tarfile`."""

    def __init__(self, bodies):
        self.bodies, self.rest = bodies, b""

    def read(self, size):
        while len(self.rest) < size and (body := next(self.bodies, None)) is not None:
            self.rest += body
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece


def unpack(stream, data, manifest):
    """PostgreSQL's own tar archives, one after another, into `data`; its backup_manifest into a file of its own."""
    with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20, ignore_zeros=True) as archive:
        for member in archive:
            name, is_manifest = Path(member.name), member.name.startswith(MANIFEST)
            if name.is_absolute() or ".." in name.parts:
                raise Problem(member.name, "a name in the backup that leads out of the data directory")
            if member.isdir():
                (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            if not member.isreg():
                raise Problem(member.name, "neither a file nor a folder, so it cannot be restored")
            (data / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target = manifest if is_manifest else data / name
            with open(target, "ab" if is_manifest else "wb") as file:
                shutil.copyfileobj(archive.extractfile(member), file, 1 << 20)
            os.chmod(target, 0o600)


def segment_file(folder, timeline, position, size):
    number, each = position // size, (1 << 32) // size
    return folder / f"{timeline:08X}{number // each:08X}{number % each:08X}"


def write_wal(db, first, limit, folder, options, pool):
    """WAL from `first` up to `limit` as whole segment files; what is not known is zero. Returns where it ends."""
    size = db.segment_size

    def write(piece):
        item = Item(db.folder, piece.path)
        if item.digest != piece.digest:
            raise Problem(item.key, "changed while it was read")
        plain = item.read(options.identity)[: min(piece.end, limit) - piece.start]
        path = segment_file(folder, piece.timeline, piece.start, size)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.truncate(size)
            file.seek(piece.start % size)
            file.write(plain)

    unusable = {}
    while True:
        pieces = [piece for piece in db.wal(first, unusable) if piece.start < limit]
        try:
            for _ in in_parallel(write, pieces, "log", options, pool):
                pass
            break
        except Problem as problem:
            if problem.where in unusable or "/segment/" not in problem.where:
                raise
            unusable[problem.where] = problem
            warn(f"a segment cannot be used, trying without it: {problem}")
    limit, lines = min(limit, pieces[-1].end), ""
    # A new timeline's first segment begins with what the old one wrote there; and PostgreSQL wants history files.
    nexts = [timeline for timeline, _ in ancestry(db.tail.history)[1:]] + [db.tail.history["timeline"]]
    for (old, switch), new in zip(ancestry(db.tail.history), nexts):
        if switch > limit:
            break
        lines += f"{old}\t{show_lsn(switch)}\tpromoted\n"
        (folder / f"{new:08X}.history").write_text(lines)
        source, target = segment_file(folder, old, switch, size), segment_file(folder, new, switch, size)
        if switch % size and switch > first and target.exists():
            with open(source, "rb") as parent, open(target, "r+b") as child:
                child.write(parent.read(switch % size))
    return limit


def configure(data, output, backup, target_time):
    """Settings that need nothing outside of this folder. The old files stay beside the new ones."""
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        if (data / name).exists():
            (data / name).rename(data / (name + ".before"))
    settings = {name: backup.meta["settings"][name] for name in CARRIED if name in backup.meta["settings"]}
    settings.update(listen_addresses="localhost", synchronous_standby_names="", archive_mode="off")
    settings.update(restore_command=f'cp "{output}/wal/%f" "%p"', recovery_target_timeline="latest")
    if target_time:
        settings.update(recovery_target_time=target_time, recovery_target_action="promote")
    preloaded = backup.meta["settings"].get("shared_preload_libraries", "").replace("\n", " ")
    lines = ["# Written by holdfast_recover.py. What the old server had is in postgresql.conf.before and in"]
    lines += ["# postgresql.auto.conf.before; extensions that it preloaded: " + preloaded]
    lines += [f"{name} = '" + str(value).replace("'", "''") + "'" for name, value in settings.items()]
    (data / "postgresql.conf").write_text("\n".join(lines).replace("\0", "") + "\n")
    (data / "postgresql.auto.conf").write_text("")
    (data / "recovery.signal").write_text("")
    if not (data / "pg_hba.conf").exists():
        (data / "pg_hba.conf").write_text("local all all peer\n")
    (data / "pg_wal" / "archive_status").mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(data, 0o700)


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def databases(options):
    found = sorted(path.parent for path in options.folder.glob("**/v1/db/*/identity"))
    found = [base for base in found if options.database in (None, base.name)]
    if not found:
        what = f"no database {options.database!r}" if options.database else "no database"
        raise Problem(options.folder, f"{what} of a vault in this folder", "is this where the bucket was fetched to?")
    return found


def backups(db):
    """Oldest first. What is damaged, not believed, or has lost its WAL is said, and left out."""
    found = []
    for path in sorted((db.base / "backup").glob("*/manifest")):
        try:
            backup = Backup(db, path)
            lines = {backup.meta["timeline"], *(timeline_at(db.tail.history, at) for at in (backup.start, backup.end))}
            if backup.end <= db.tail.place[1] and len(lines) == 1:
                db.wal(backup.first)
                found.append(backup)
        except Problem as problem:
            warn(f"backup {path.parent.name} left out: {problem}")
    return sorted(found, key=lambda backup: backup.end)


def list_databases(options):
    for base in databases(options):
        db = Database(options.folder, base, options)
        (epoch, end), index = db.tail.place, db.newest
        print(f"database {db.name}: system {db.system_id}, timeline {db.tail.history['timeline']}")
        print(f"  log: epoch {epoch}, ends at {show_lsn(end)}; {len(db.tail.pieces)} chunks"
              + (f", WAL before {index['archived']['at']['start']} in segments" if index else ""))
        if db.tail.last:
            print(f"  last object written {db.tail.last.header['created']}")
        for backup in backups(db):
            print(f"  backup {backup.name}: {backup.bytes} bytes, PostgreSQL {backup.version}")
            print(f"    restores every moment from {show_lsn(backup.end)} ({backup.finished}) to {show_lsn(end)}")


def choose(db, options, limit, target_time):
    """The newest backup that ended before the moment that is asked for."""
    known = backups(db)
    fit = [b for b in known if b.end <= limit and (not target_time or moment(b.finished) <= moment(target_time))]
    fit = [backup for backup in fit if options.backup in (None, backup.name)]
    if not fit:
        known = ", ".join(f"{backup.name} (from {show_lsn(backup.end)})" for backup in known) or "none"
        hint = f"a WARNING above says why a backup was left out; those that can be restored: {known}"
        raise Problem(db.name, f"no backup leads to that moment{': ' + options.backup if options.backup else ''}", hint)
    return fit[-1]


def restore(options):
    found, output = databases(options), Path(options.output).absolute()
    if len(found) > 1:
        raise Problem(options.folder, "several databases", "say which: --database " + " | ".join(b.name for b in found))
    if output.exists():
        raise Problem(output, "exists already", "name a folder that does not exist yet")
    for program in ("age", "zstd"):
        if not shutil.which(program):
            raise Problem(program, "this program is not on this machine", "apt-get install age zstd")
    if not options.identity.is_file():
        raise Problem(options.identity, "no such file", "it holds the escrow key, a line AGE-SECRET-KEY-1...")
    db = Database(options.folder, found[0], options)
    limit, target_time = db.tail.place[1], None
    if options.to and re.fullmatch("[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", options.to):
        limit = lsn(options.to)
        if limit > db.tail.place[1]:
            raise Problem(options.to, f"the log ends before it, at {show_lsn(db.tail.place[1])}", "leave out --to")
    elif options.to:
        target_time = moment(options.to).isoformat(sep=" ")
    backup = choose(db, options, limit, target_time)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    (partial / "wal").mkdir()
    with ThreadPoolExecutor(options.workers) as pool:
        bodies = in_parallel(lambda item: item.read(options.identity), backup.items(), "base backup", options, pool)
        unpack(Stream(bodies), partial / "data", partial / "backup_manifest")
        limit = write_wal(db, backup.first, limit, partial / "wal", options, pool)
    if limit < backup.end:
        raise Problem(db.name, f"the log is lost from {show_lsn(limit)} on, before that backup ended", "an older --backup")
    configure(partial / "data", output, backup, target_time)
    partial.rename(output)
    print(f"restored {db.name} from backup {backup.name} and the log up to {target_time or show_lsn(limit)}")
    print(f"next, as the user who shall run PostgreSQL {backup.version.split()[0].split('.')[0]} and owns {output}:")
    print(f"  pg_ctl -D {output}/data -l {output}/log -w -t 86400 start")


def versions(options):
    """Prints a shell script that fetches the oldest version of what was covered, hidden or not fetched."""
    covered = absent = 0
    for key, entries in sorted(by_key(options.listing).items()):
        path, marked = Path(options.folder) / key, sum(entry["marker"] for entry in entries)
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", key) or ".." in key.split("/") or marked == len(entries):
            print(f"# not an object of a vault, left alone: {json.dumps(key)}")
            continue
        if len(entries) == 1 and path.exists():
            continue
        covered, absent = covered + (len(entries) > 1), absent + (len(entries) == 1)
        what = f"TAMPERING: {key} has {len(entries) - marked} versions and {marked} delete markers"
        print("# " + (what if len(entries) > 1 else f"not fetched: {key}"))
        words = ["--bucket", options.bucket, "--key", key, "--version-id", oldest(entries)["VersionId"], str(path)]
        print(f"mkdir -p {shlex.quote(str(path.parent))}")
        print('aws ${ENDPOINT:+--endpoint-url "$ENDPOINT"} s3api get-object', *map(shlex.quote, words), "> /dev/null")
    print(f"# {covered} keys were tampered with, {absent} were not fetched")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="versions | list | restore")
    command = commands.add_parser("versions", help="print the commands that fetch what was tampered with")
    command.add_argument("listing", help="what `aws s3api list-object-versions --output json` printed")
    command.add_argument("--bucket", required=True)
    command.add_argument("--folder", required=True, help="where the bucket was fetched to")
    command.set_defaults(run=versions)
    for name, run, what in (("list", list_databases, "show databases, backups and the moments that can be restored"),
                            ("restore", restore, "make a data directory and its WAL")):
        command = commands.add_parser(name, help=what)
        command.add_argument("folder", type=Path, help="where the bucket was fetched to")
        command.add_argument("--database", help="its name; not needed if there is only one")
        command.add_argument("--trust", action="append", metavar="KEY[@TIME]", help="believe this writer (up to that time)")
        command.add_argument("--versions", metavar="FILE", help="the list of versions; tells when each object was stored")
        command.add_argument("--all", action="store_true", help="verify every signature, not only those that bind the rest")
        command.add_argument("--stop-at-hole", action="store_true", help="an object is lost: restore what is before it")
        command.set_defaults(run=run)
    command.add_argument("--identity", required=True, type=Path, help="file with the private key (AGE-SECRET-KEY-1...)")
    command.add_argument("--output", required=True, help="folder to make")
    command.add_argument("--to", metavar="LSN|TIME", help="16/B374D848, or 2026-05-04T10:00:00+02:00; default: the end")
    command.add_argument("--backup", help="the backup to begin from; default: the newest that fits")
    command.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="objects opened at a time (150 MiB each)")
    options = parser.parse_args()
    try:
        if options.command != "versions":
            options.trust, options.progress = Trust(options.trust, options.versions), Progress()
        options.run(options)
    except (Problem, OSError, KeyError, TypeError, ValueError, tarfile.TarError) as problem:
        sys.exit(f"ERROR: {problem if isinstance(problem, (Problem, OSError)) else repr(problem)}")


if __name__ == "__main__":
    main()
