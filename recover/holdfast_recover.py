#!/usr/bin/env python3
"""Recover a PostgreSQL database from a Holdfast vault, without Holdfast.

Needs Python 3.9 or newer and nothing but its standard library, and the programs `age` and `zstd`.
Input is a folder with the bucket's objects as any S3 client fetches them (key = path). How to fetch them, and what
to do with the result, is in docs/recover-by-hand.md; what the bytes mean, and what must be checked before they are
believed, in docs/vault-format.md.

    holdfast_recover.py versions versions.json --bucket NAME --folder bucket   what to fetch again, by version
    holdfast_recover.py list bucket                                            databases, backups, restorable moments
    holdfast_recover.py restore bucket --identity FILE --output DIR            a data directory and its WAL
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True  # nothing is left beside this script
from vault_log import Trust, ancestry, by_key, moment, oldest, timeline_at, walk
from vault_objects import Item, Problem, lsn, show_lsn


# ---------------------------------------------------------------------------------------------------------------------
# Base backups


class Backup:
    def __init__(self, folder, path, chain):
        self.folder, self.path = folder, path.parent
        self.item = Item(folder, path)
        self.item.must(kind="backup-manifest", database=chain.base.name, system_id=chain.system_id, backup=path.parent.name)
        self.item.verify()
        chain.trust.check(self.item)
        manifest = json.loads(self.item.read(None))
        self.meta, self.parts, self.last_part = manifest["meta"], manifest["parts"], manifest["lastPart"]
        self.start, self.end = lsn(self.meta["start"]), lsn(manifest["end"])
        self.finished, self.bytes = manifest["finished"], manifest["plainBytes"]
        if (manifest["nonce"], manifest["key"]) != (self.item.header["nonce"], self.item.header["key"]):
            raise Problem(self.item.key, "its body names another maker than its header")

    def on_line(self, chain):
        """Whether the log goes on from this backup, and not from another line of history."""
        return timeline_at(chain.history, self.start) == self.meta["timeline"] == timeline_at(chain.history, self.end)

    def items(self):
        """The parts' headers, all of them checked before the first byte is used."""
        before, items = None, []
        for n in range(self.parts):
            path = self.path / f"{n:08d}"
            if not path.exists():
                key = path.relative_to(self.folder).as_posix()
                raise Problem(key, "missing", "fetch it again, or take another --backup")
            item = Item(self.folder, path)
            item.must(kind="backup-part", backup=self.path.name, n=n, prev=before)
            if item.owner != self.item.owner:
                raise Problem(item.key, "made by another maker than the manifest")
            before, items = item.digest, items + [item]
        if before != self.last_part:
            raise Problem(self.item.key, "the last part is not the one that the manifest names")
        return items


class Pieces:
    """The bodies of many objects, opened a few at a time, as one stream for `tarfile`."""

    def __init__(self, items, keys, pool, ahead):
        self.items, self.keys, self.pool, self.ahead = iter(items), keys, pool, ahead
        self.waiting, self.rest = [], b""

    def read(self, size):
        while len(self.rest) < size:
            for item in self.items:
                self.waiting.append(self.pool.submit(item.read, self.keys))
                if len(self.waiting) > self.ahead:
                    break
            if not self.waiting:
                break
            self.rest += self.waiting.pop(0).result()
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece


MANIFEST = ".holdfast-backup-manifest/"


def unpack(stream, data, manifest):
    """PostgreSQL's own tar archives, one after another, into `data`; its backup_manifest into a file of its own."""
    with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20, ignore_zeros=True) as archive:
        for member in archive:
            name = Path(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise Problem(member.name, "a name in the backup that leads out of the data directory")
            if member.name.startswith(MANIFEST):
                with open(manifest, "ab") as file:
                    shutil.copyfileobj(archive.extractfile(member), file)
            elif member.isdir():
                (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            elif member.isreg():
                (data / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open(data / name, "wb") as file:
                    shutil.copyfileobj(archive.extractfile(member), file, 1 << 20)
                os.chmod(data / name, 0o600)
            else:
                raise Problem(member.name, "neither a file nor a folder, so it cannot be restored")


# ---------------------------------------------------------------------------------------------------------------------
# The data directory


def segment_file(folder, timeline, position, size):
    number, each = position // size, (1 << 32) // size
    return folder / f"{timeline:08X}{number // each:08X}{number % each:08X}"


def write_wal(chain, start, limit, folder, keys, pool, workers):
    """The chunks from the segment of `start` up to `limit` as whole segment files; what is not known is zero."""
    size, first = chain.segment_size, start // chain.segment_size * chain.segment_size
    items = [item for item in chain.chunks if lsn(item.subject["end"]) > first and item.at()[1] < limit]
    if not items or items[0].at()[1] > first:
        raise Problem(chain.base.name, f"the log has no WAL from {show_lsn(first)} on", "take a newer --backup")

    def write(item):
        position = item.at()[1]
        path = segment_file(folder, item.subject["timeline"], position, size)
        plain = item.read(keys)[: max(0, limit - position)]
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, size)
            os.pwrite(handle, plain, position % size)
        finally:
            os.close(handle)

    for at in range(0, len(items), 4 * workers):
        list(pool.map(write, items[at : at + 4 * workers]))
        progress(f"WAL: {min(at + 4 * workers, len(items))} of {len(items)} chunks")
    branches(chain, first, limit, folder)


def branches(chain, first, limit, folder):
    """A new timeline's first segment begins with what the old one wrote there; and PostgreSQL wants history files."""
    size, lines = chain.segment_size, ""
    nexts = [timeline for timeline, _ in ancestry(chain.history)[1:]] + [chain.history["timeline"]]
    for (old, switch), new in zip(ancestry(chain.history), nexts):
        if switch > limit:
            break
        lines += f"{old}\t{show_lsn(switch)}\tpromoted\n"
        (folder / f"{new:08X}.history").write_text(lines)
        source, target = segment_file(folder, old, switch, size), segment_file(folder, new, switch, size)
        if switch % size and switch > first and target.exists():
            with open(source, "rb") as parent, open(target, "r+b") as child:
                child.write(parent.read(switch % size))


CARRIED = ["max_connections", "max_locks_per_transaction", "max_prepared_transactions", "max_wal_senders"]
CARRIED += ["max_worker_processes"]


def configure(data, output, backup, target_time):
    """Settings that need nothing outside of this folder. The old files stay beside the new ones."""
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        if (data / name).exists():
            (data / name).rename(data / (name + ".before"))
    settings = {name: backup.meta["settings"][name] for name in CARRIED if name in backup.meta["settings"]}
    settings.update(listen_addresses="localhost", synchronous_standby_names="", archive_mode="off")
    settings["restore_command"] = f'cp "{output}/wal/%f" "%p"'
    settings["recovery_target_timeline"] = "latest"
    if target_time:
        settings.update(recovery_target_time=target_time, recovery_target_action="promote")
    lines = ["# Written by holdfast_recover.py. What the old server had is in postgresql.conf.before and in"]
    preloaded = backup.meta["settings"].get("shared_preload_libraries", "")
    lines += ["# postgresql.auto.conf.before; extensions that it preloaded: " + preloaded.replace("\n", " ")]
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


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def databases(folder, name=None):
    found = sorted(path.parent for path in folder.glob("**/v1/db/*/identity") if name in (None, path.parent.name))
    if not found:
        what = f"no database {name!r}" if name else "no database"
        raise Problem(str(folder), f"{what} of a vault in this folder", "is this where the bucket was fetched to?")
    return found


def backups(chain):
    """Oldest first. What is damaged or not believed is said, and left out."""
    found = []
    for path in sorted((chain.base / "backup").glob("*/manifest")):
        try:
            backup = Backup(chain.folder, path, chain)
        except (Problem, KeyError, TypeError, ValueError) as problem:
            print(f"WARNING: backup {path.parent.name} left out: {problem}", file=sys.stderr)
            continue
        if backup.end <= chain.place[1] and backup.on_line(chain):
            found.append(backup)
    return sorted(found, key=lambda backup: backup.end)


def list_databases(options):
    for base in databases(options.folder, options.database):
        chain = walk(options.folder, base, options.trust, options)
        last = f", written {chain.chunks[-1].header['created']}" if chain.chunks else ""
        print(f"database {base.name}: system {chain.system_id}, timeline {chain.history['timeline']}")
        print(f"  log: epoch {chain.place[0]}, {len(chain.chunks)} chunks, ends at {show_lsn(chain.place[1])}{last}")
        for backup in backups(chain):
            print(f"  backup {backup.path.name}: {backup.bytes} bytes, PostgreSQL {backup.meta['serverVersion']}")
            print(f"    restores every moment from {show_lsn(backup.end)} ({backup.finished}) to {show_lsn(chain.place[1])}")


def choose(chain, options, limit, target_time):
    """The newest backup that ended before the moment that is asked for."""
    all_of_them = backups(chain)
    fit = [b for b in all_of_them if b.end <= limit and (not target_time or moment(b.finished) <= moment(target_time))]
    if options.backup:
        fit = [backup for backup in fit if backup.path.name == options.backup]
    if not fit:
        known = ", ".join(f"{b.path.name} (from {show_lsn(b.end)})" for b in all_of_them) or "none"
        raise Problem(chain.base.name, "no backup leads to that moment", f"the backups that can be restored: {known}")
    return fit[-1]


def restore(options):
    found = databases(options.folder, options.database)
    if len(found) > 1:
        raise Problem(str(options.folder), "several databases", "say which: --database " + " | ".join(b.name for b in found))
    output = Path(options.output).absolute()
    if output.exists():
        raise Problem(str(output), "exists already", "name a folder that does not exist yet")
    chain = walk(options.folder, found[0], options.trust, options)
    limit, target_time = chain.place[1], None
    if options.to and re.fullmatch("[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", options.to):
        limit = lsn(options.to)
        if limit > chain.place[1]:
            raise Problem(options.to, f"the log ends before it, at {show_lsn(chain.place[1])}", "leave out --to")
    elif options.to:
        target_time = moment(options.to).isoformat(sep=" ")
    backup = choose(chain, options, limit, target_time)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    (partial / "wal").mkdir()
    with ThreadPoolExecutor(options.workers) as pool:
        stream = Pieces(backup.items(), options.identity, pool, options.workers)
        unpack(stream, partial / "data", partial / "backup_manifest")
        progress("base backup unpacked")
        write_wal(chain, backup.start, limit, partial / "wal", options.identity, pool, options.workers)
    configure(partial / "data", output, backup, target_time)
    partial.rename(output)
    print(f"\nrestored {chain.base.name} from backup {backup.path.name} and the log up to {target_time or show_lsn(limit)}")
    print(f"next, as the user who shall run PostgreSQL {backup.meta['serverVersion'].split()[0].split('.')[0]} and owns {output}:")
    print(f"  pg_ctl -D {output}/data -l {output}/log -w -t 86400 start")


def versions(options):
    """Prints a shell script that fetches the oldest version of what was covered, hidden or not fetched."""
    covered = absent = 0
    for key, entries in sorted(by_key(options.listing).items()):
        path = Path(options.folder) / key
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", key) or ".." in key.split("/") or all(e["marker"] for e in entries):
            print(f"# not an object of a vault, left alone: {json.dumps(key)}")
            continue
        if len(entries) > 1:
            covered += 1
            marked = sum(entry["marker"] for entry in entries)
            print(f"# TAMPERING: {key} has {len(entries) - marked} versions and {marked} delete markers")
        elif not path.exists():
            absent += 1
            print(f"# not fetched: {key}")
        else:
            continue
        print(f"mkdir -p {shlex.quote(str(path.parent))}")
        words = ["--bucket", options.bucket, "--key", key, "--version-id", oldest(entries)["VersionId"], str(path)]
        words = " ".join(map(shlex.quote, words))
        print('aws ${ENDPOINT:+--endpoint-url "$ENDPOINT"} s3api get-object ' + words + " > /dev/null")
    print(f"# {covered} keys were tampered with, {absent} were not fetched")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("versions", help="print the commands that fetch what was tampered with")
    command.add_argument("listing", help="what `aws s3api list-object-versions --output json` printed")
    command.add_argument("--bucket", required=True)
    command.add_argument("--folder", required=True, help="where the bucket was fetched to")
    command.set_defaults(run=versions)
    for name, run in (("list", list_databases), ("restore", restore)):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path, help="where the bucket was fetched to")
        command.add_argument("--database", help="its name; not needed if there is only one")
        command.add_argument("--trust", action="append", metavar="KEY[@TIME]", help="believe this writer (up to that time)")
        command.add_argument("--versions", metavar="FILE", help="the list of versions; tells when each object was stored")
        command.add_argument("--all", action="store_true", help="verify the signature of every chunk, not of the last of each epoch")
        command.add_argument("--stop-at-hole", action="store_true", help="go on although an object is missing; loses what follows")
        command.set_defaults(run=run)
    command.add_argument("--identity", required=True, type=Path, help="file with the private key (AGE-SECRET-KEY-1...)")
    command.add_argument("--output", required=True, help="folder to make")
    command.add_argument("--to", metavar="LSN|TIME", help="16/B374D848, or 2026-05-04T10:00:00+02:00; default: the end")
    command.add_argument("--backup", help="the backup to begin from; default: the newest that fits")
    command.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="objects opened at a time (up to 150 MiB each)")
    options = parser.parse_args()
    try:
        if options.command != "versions":
            options.trust = Trust(options.trust, options.versions)
        options.run(options)
    except (Problem, OSError, KeyError, TypeError, ValueError, tarfile.TarError) as problem:
        sys.exit(f"ERROR: {problem if isinstance(problem, (Problem, OSError)) else repr(problem)}")


if __name__ == "__main__":
    main()
