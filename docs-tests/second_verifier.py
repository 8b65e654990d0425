#!/usr/bin/env python3
"""Verifies a bucket and proofs by docs/FORMAT.md alone.

    second_verifier.py verify DIRECTORY KEY [--since MS] [--now MS] [--witness KEY]
    second_verifier.py check PROOF RECORD KEY
    second_verifier.py cases FILE
    second_verifier.py make FILE
    second_verifier.py write FILE DIRECTORY

`verify` prints what it finds as `audit verify --json` does, and ends with 1 if that is tampering.
With `--witness`, which may be given several times, all these must have cosigned each stream.
`cases` verifies the buckets of a file and compares with what the file says of them; `make` writes
such a file, of buckets that it makes itself; `write` puts the shared objects of one into a
directory. Needs `pip install cryptography zstandard`.
"""

import base64
import datetime
import hashlib
import json
import os
import pathlib
import re
import stat
import struct
import sys
import zlib

import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ULID = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
KEY = re.compile(
    rf"(?:dt=\d{{4}}-\d\d-\d\d/hour=\d\d/({ULID})-(\d{{12,}})\.ndjson(\.zst|\.gz|)"
    rf"|_audit/dt=\d{{4}}-\d\d-\d\d/hour=\d\d/({ULID})-(\d{{12,}})\.system)",
    re.ASCII,
)
MAX_RECORDS = 1 << 28
MAX_NUMBER = (1 << 64) - 1
MAX_SIDECAR_BYTES = 4096
MAX_LINES_BYTES = 1 << 30
MAX_LINE_BYTES = 32 << 20
MAX_WINDOW_BYTES = 8 << 20
ALWAYS = (0, MAX_NUMBER)
LONG_MS = 25 * 60 * 60 * 1000
FIELDS = "format lastsequence count sha256 stable left name streamkey seed root sig cert".split()
ALARMS = {
    "expired": "expired",
    "overdue": "late",
    "no-evidence": "unproven",
    "foreign-object": "unproven",
    "unknown-host": "unproven",
    "key-validity": "unproven",
    "other-bucket": "unproven",
    "unopened": "unproven",
    "appeared": "unproven",
    "unacknowledged": "unproven",
    "set-aside": "unproven",
    "unwitnessed": "unproven",
}


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def b64(data):
    return base64.b64encode(data).decode()


# Invalid text raises ValueError everywhere.


def unb64(text, length=None):
    data = base64.b64decode(text, validate=True)
    if b64(data) != text or length not in (None, len(data)):
        raise ValueError(text)
    return data


def decimal(text):
    if not re.fullmatch("0|[1-9][0-9]*", text) or int(text) >= 1 << 64:
        raise ValueError(text)
    return int(text)


P = 2**255 - 19
ORDER = (1 << 252) + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
# The y coordinates of the points of small order.
SMALL_ORDER = [
    0,
    1,
    P - 1,
    int("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd83d3d706a17c7", 16),
    int("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16),
]


def public_key(data):
    """Checks that the key is a point of the curve, and not one of small order."""
    y = int.from_bytes(data, "little") & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    is_point = square == 0 or pow(square, (P - 1) // 2, P) == 1
    if not is_point or y % P in SMALL_ORDER:
        raise ValueError("a public key")
    return data


def is_signed(key, signature, message):
    point = int.from_bytes(signature[:32], "little") & (1 << 255) - 1
    if point % P in SMALL_ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
    except InvalidSignature:
        return False


def key_id(name, kind, key):
    return sha(name.encode(), b"\n", bytes([kind]), key)[:4]


def verifier_key(text):
    """Returns the name and the public key."""
    name, identity, data = text.split("+", 2)
    data = unb64(data, 33)
    if identity != key_id(name, data[0], data[1:]).hex():
        raise ValueError(text)
    return name, public_key(data[1:])


# Trees. A frontier is a list of (level, hash), the largest first.


def node(left, right):
    return sha(b"\1", left, right)


def append(frontier, leaf):
    level, top = 0, leaf
    while frontier and frontier[-1][0] == level:
        top = node(frontier.pop()[1], top)
        level += 1
    frontier.append((level, top))


def root(frontier):
    hashes = [one for _, one in frontier]
    if not hashes:
        return sha()
    top = hashes.pop()
    while hashes:
        top = node(hashes.pop(), top)
    return top


def subtrees(frontier):
    """Returns the subtrees of a tree by start and level."""
    found, start = {}, 0
    for level, top in frontier:
        found[start, level] = top
        start += 1 << level
    return found


def frontier_of(size, data):
    levels = [level for level in range(63, -1, -1) if size >> level & 1]
    if len(data) != 32 * len(levels):
        raise ValueError("left")
    return [(level, data[32 * i : 32 * i + 32]) for i, level in enumerate(levels)]


def checkpoint(origin, size, top):
    return f"{origin}\n{size}\n{b64(top)}\n".encode()


class Object:
    """The key, metadata and records of an object. Records are None if it cannot be read."""

    def __init__(self, key, metadata, lines):
        self.key, self.metadata, self.lines = key, metadata, lines
        match = KEY.fullmatch(key)
        self.stream = match[1] or match[4]
        self.first = int(match[2] or match[5])
        self.is_data = match[1] is not None
        self.unusable, self.fault, self.records, self.roots = None, None, [], {}

    def check(self, hosts):
        try:
            self.read_head(hosts)
        except Unusable as why:
            self.unusable = why.args
        else:
            self.fault = self.read_lines()
        return self

    def read_head(self, hosts):
        metadata = self.metadata
        if metadata.get("format", "1") == "1":
            raise Unusable("no-evidence")
        head = {}
        for name in FIELDS:
            text = metadata.get(name)
            if text is None and name == "left" and head["first"] == 0:
                text = ""
            if text is None:
                raise Unusable("metadata-missing")
            try:
                self.read_field(head, name, text)
            except ValueError:
                raise Unusable("metadata-malformed") from None
        self.head = head
        self.end, self.head_first = head["lastsequence"] + 1, head["first"]
        named = [(key, validity) for (name, key), validity in hosts if name == head["name"]]
        if not named:
            raise Unusable("unknown-host", head["name"])
        origin = f"{head['name']}/{self.stream}"
        message = f"audit-stream/v1\n{origin}\n{b64(head['streamkey'])}\n".encode()
        by = [validity for key, validity in named if is_signed(key, head["cert"], message)]
        if not by:
            raise Unusable("certificate")
        if not any(begin <= opened(self.stream) < end or (begin, end) == ALWAYS for begin, end in by):
            raise Unusable("key-validity", head["name"])
        text = checkpoint(origin, self.end, head["root"])
        if not is_signed(head["streamkey"], head["sig"], text):
            raise Unusable("signature")
        if head["first"] != self.first:
            raise Unusable("misplaced")

    def read_field(self, head, name, text):
        if name == "format":
            if text != "2":
                raise ValueError(text)
        elif name == "lastsequence":
            head[name] = decimal(text)
            if head[name] >= MAX_RECORDS:
                raise ValueError(text)
        elif name == "count":
            head["first"] = head["lastsequence"] + 1 - decimal(text)
            if not 0 <= head["first"] <= head["lastsequence"]:
                raise ValueError(text)
        elif name == "sha256":
            if not re.fullmatch("[0-9a-f]{64}", text):
                raise ValueError(text)
            head[name] = bytes.fromhex(text)
        elif name == "stable":
            head[name] = decimal(text)
        elif name == "left":
            head[name] = frontier_of(head["first"], unb64(text))
        elif name == "name":
            if not re.fullmatch("[!-*,-~]{1,64}", text):
                raise ValueError(text)
            head[name] = text
        else:
            head[name] = unb64(text, 64 if name in ("sig", "cert") else 32)
            if name == "streamkey":
                public_key(head[name])

    def read_lines(self):
        if self.lines is None:
            return "damaged"
        head, number = self.head, self.first
        salts = f"audit-object/v1\n{self.key}\n{head['stable']}\n".encode()
        key = sha(salts, head["seed"])
        frontier = list(head["left"])
        for line in self.lines:
            append(frontier, sha(b"\0", sha(key, struct.pack(">Q", number)), line))
            number += 1
            self.roots[number] = root(frontier)
        self.after = frontier
        if number != self.end:
            return "count"
        if root(frontier) != head["root"]:
            return "root"
        if sha(*(line + b"\n" for line in self.lines)) != head["sha256"]:
            return "digest"
        if not self.is_data:
            try:
                self.records = [system_record(line) for line in self.lines]
            except (ValueError, KeyError, TypeError, AttributeError):
                return "system-record"
        return None


class Unusable(Exception):
    pass


def members(pairs):
    """Rejects duplicate names."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError(pairs)
    return dict(pairs)


def number(text):
    """Rejects numbers with a sign, a fraction or an exponent, which system records never have."""
    return int(text) if text != "-0" else -0.0


NEEDED = {
    "opened": {"next": int, "host": str, "software": str, "key": str},
    "heartbeat": {"next": int},
    "void": {"first": int, "count": int, "reason": str},
    "closed": {},
}


def system_record(line):
    whole = json.loads(line, object_pairs_hook=members, parse_int=number, parse_constant=int)
    record = whole.pop("$audit")
    event = record["event"]
    needed = NEEDED[event] | {"at": int}
    is_right = not whole and all(type(record[name]) is kind for name, kind in needed.items())
    if not is_right or not all(
        0 <= record[name] <= MAX_NUMBER for name, kind in needed.items() if kind is int
    ):
        raise ValueError(line)
    previous = record.get("previous") if event in ("opened", "heartbeat") else None
    if previous is not None:
        size = previous["size"]
        unb64(previous["root"], 32)
        if type(size) is not int or not 0 <= size <= MAX_NUMBER or type(previous["stream"]) is not str:
            raise ValueError(line)
    offset, cosigned = record.get("clockOffset"), record.get("cosigned", [])
    if event == "opened" and type(record.get("bucket", "")) not in (str, type(None)):
        raise ValueError(line)
    if event in ("heartbeat", "closed"):
        if type(cosigned) is not list or not all(type(note) is str for note in cosigned):
            raise ValueError(line)
    if event == "heartbeat":
        is_offset = offset is None or type(offset) is int and -(1 << 63) <= offset < 1 << 63
        if not is_offset:
            raise ValueError(line)
    return record


class Stream:
    def __init__(self, name, seen, receipts, since):
        self.name, self.seen, self.receipts, self.since = name, seen, receipts, since
        self.found, self.expected, self.is_open, self.last = [], 0, False, None
        self.has_data, self.key, self.stable, self.latest = False, None, 0, None
        self.gaps, self.unconfirmed, self.voids, self.unusable = [], [], [], []
        self.occupied = []
        self.size, self.root, self.closed, self.promise = 0, None, None, None
        self.previous, self.has_ended, self.is_settled = [], False, False
        self.bucket, self.witnesses = None, []
        self.ends, self.witnessed, self.other_history = {}, 0, None

    def find(self, code, key=None, records=None):
        self.found.append(finding(code, self.name, key, records))

    def add(self, one):
        if self.closed is not None and one.first >= self.closed:
            return self.find("after-end", one.key)
        if one.unusable:
            self.unusable.append(one)
            self.occupy(one.first)
            self.has_data |= one.is_data
            return
        records = (one.first, one.end)
        self.key = self.key or one.head["streamkey"]
        if self.key != one.head["streamkey"]:
            self.find("other-key", one.key, records)
            return self.occupy(one.first)
        if not self.is_open and one.first < self.expected:
            return self.overlap(one, records)
        self.accept(one, records)
        self.has_data |= one.is_data
        self.take_records(one)
        self.take_cosigned(one)

    def gap(self, first):
        if not self.is_open and first > self.expected:
            return [(self.expected, first, not self.has_data, self.latest)]
        return []

    def occupy(self, first):
        if first >= self.expected:
            self.unconfirmed += self.gap(first)
            self.end_occupied(first)
            self.occupied.append([first, None, not self.has_data, self.latest])
            self.expected, self.is_open = first, True

    def end_occupied(self, following):
        if self.is_open and self.occupied[-1][1] is None:
            self.occupied[-1][1] = following

    def overlap(self, one, records):
        if one.fault:
            return self.find(one.fault, one.key, records)
        if self.last and self.last.head == one.head:
            if self.last.fault:
                self.last.fault = None
                return
            return self.find("copy", one.key, records)
        self.find("fork", one.key, records)

    def accept(self, one, records):
        self.end_occupied(one.first)
        confirmed = [gap for gap in self.unconfirmed if gap[0] < one.first]
        self.gaps += confirmed + self.gap(one.first)
        self.unconfirmed = []
        is_linked = True
        if self.last and self.last.end == one.first:
            is_linked = root(one.head["left"]) == self.last.head["root"]
        elif self.last and self.last.is_whole:
            before, here = subtrees(self.last.after), subtrees(one.head["left"])
            is_linked = all(here.get(place, top) == top for place, top in before.items())
        if one.fault:
            self.find(one.fault, one.key, records)
        elif not is_linked:
            self.find("unlinked", one.key, records)
        self.compare_with_seen(one)
        if not one.fault:
            self.stable = max(self.stable, one.head["stable"])
        one.is_whole = is_linked and not one.fault
        self.expected = self.size = one.end
        self.is_open, self.root, self.last = False, one.head["root"], one

    def compare_with_seen(self, one):
        if not self.seen or self.is_settled or not one.first < self.seen[0] <= one.end:
            return
        self.is_settled = True
        size, top = self.seen
        if size == one.end:
            is_same = one.head["root"] == top
        else:
            is_same = bool(one.fault) or one.roots[size] == top
        if not is_same:
            self.find("rewritten", one.key, (0, size))

    def take_records(self, one):
        for number, record in enumerate(one.records, one.first):
            event = record["event"]
            is_misplaced = event == "opened" and number != 0
            if event == "void":
                end = record["first"] + record["count"]
                is_misplaced = record["count"] == 0 or end > number
                is_misplaced |= record["first"] < self.stable
            if is_misplaced or event == "closed" and number + 1 != one.first + len(one.records):
                self.find("system-record", one.key, (number, number + 1))
                continue
            self.latest = record["at"]
            self.promise = record.get("next", self.promise)
            if record.get("previous"):
                self.previous.append(record["previous"])
            if event == "void":
                self.voids.append((record["first"], record["first"] + record["count"]))
            elif event == "closed":
                self.closed = number + 1
            elif event == "opened":
                self.bucket = record.get("bucket")

    def take_cosigned(self, one):
        """Compares the checkpoints that all witnesses cosigned with the stream."""
        self.ends[one.end] = one.head["root"]
        origin = f"{one.head['name']}/{self.name}"
        for note in (note for record in one.records for note in record.get("cosigned") or []):
            try:
                text, lines = read_note(note)
                said, size, top = text.split("\n")[:3]
                size, top = decimal(size), unb64(top, 32)
            except ValueError:
                continue
            is_ours = said == origin and is_signed_by(origin, 1, self.key, lines, text)
            cosigned = [is_signed_by(name, 4, key, lines, text) for name, key in self.witnesses]
            if not is_ours or not all(cosigned):
                continue
            if self.ends.get(size, top) != top:
                self.other_history = (one.key, size)
            elif size in self.ends:
                self.witnessed = max(self.witnessed, size)

    def finish(self):
        if self.witnesses and self.key is not None:
            if self.other_history:
                self.find("rewritten", self.other_history[0], (0, self.other_history[1]))
            elif not self.witnessed:
                self.find("unwitnessed")
        for first, following, *rest in self.occupied:
            ends = [end for start, end in self.voids if start == first]
            if ends and following is not None and max(ends) < following:
                self.gaps.append((max(ends), following, *rest))
        for void in self.voids:
            self.explain(*void)
        self.judge_unusable()
        for void in self.voids:
            self.find("set-aside", None, void)
        for gap in self.gaps:
            self.judge_gap(*gap)
        if not self.is_open:
            receipts = max((end for _, end in self.receipts), default=0)
            if self.seen and self.seen[0] > self.size:
                self.find("truncated", None, (self.size, self.seen[0]))
            elif receipts > self.size:
                self.find("deleted", None, (self.size, receipts))

    def explain(self, low, high):
        """Removes records from the gaps."""
        pieces = []
        for start, end, *rest in self.gaps:
            for piece in ((start, min(end, low)), (max(start, high), end)):
                if piece[0] < piece[1]:
                    pieces.append((*piece, *rest))
        self.gaps = pieces

    def judge_unusable(self):
        has_evidence, is_said = self.key is not None, False
        explained = set()
        for one in self.unusable:
            code, records = one.unusable[0], (one.first, min(one.first + 1, MAX_NUMBER))
            if code == "misplaced":
                self.explain(one.head_first, one.end)
                self.find("place", one.key, (one.head_first, one.end))
            elif one.first not in explained and any(first == one.first for first, _ in self.voids):
                explained.add(one.first)
            elif code not in ("no-evidence", "unknown-host", "key-validity"):
                self.find(code, one.key, records)
            elif has_evidence:
                code = "stripped" if code == "no-evidence" else "other-key"
                self.find(code, one.key, records)
            elif not is_said:
                is_said = True
                self.find(code)

    def judge_gap(self, start, end, is_prefix, after):
        after = max(opened(self.name), after or 0)
        may_expire = is_prefix and (self.since is None or after < self.since)
        cuts = {self.stable, *(bound for receipt in self.receipts for bound in receipt)}
        cuts = [start, *sorted(cut for cut in cuts if start < cut < end), end]
        pieces = []
        for low, high in zip(cuts, cuts[1:]):
            in_receipt = any(first <= low < last for first, last in self.receipts)
            if low < self.stable or in_receipt:
                code = "expired" if may_expire else "deleted"
            else:
                code = "unacknowledged"
            if pieces and pieces[-1][0] == code:
                pieces[-1][2] = high
            else:
                pieces.append([code, low, high])
        for code, low, high in pieces:
            self.find(code, None, (low, high))


def finding(code, stream, key=None, records=None):
    first, end = records or (None, None)
    count = None if first is None else end - first
    line = {"finding": code, "alarm": ALARMS.get(code, "tampered"), "stream": stream}
    return line | {"object": key, "first": first, "count": count}


def opened(stream):
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    ms = 0
    for digit in stream[:10]:
        ms = ms << 5 | digits.index(digit)
    return ms


def verify(
    objects, hosts, state={}, receipts={}, since=None, now=0, names=(), witnesses=()
):
    """Returns the findings in the order of `audit verify`. Hosts are keys with their validity."""
    streams = {}
    for one in sorted(objects, key=lambda one: (one.first, one.key.encode())):
        streams.setdefault(one.stream, []).append(one.check(hosts))
    for name in receipts:
        streams.setdefault(name, [])
    verified = {}
    for name in sorted(streams):
        stream = Stream(name, state.get(name), receipts.get(name, []), since)
        stream.witnesses = witnesses
        for one in streams[name]:
            stream.add(one)
        stream.finish()
        verified[name] = stream
    found, named = [], set()
    for name in state.keys() & verified.keys():
        lost_evidence(verified[name], state[name][0], True)
    for stream in verified.values():
        for previous in stream.previous:
            compare(stream.name, previous, verified, named, since, found)
    said = {line["stream"] for line in found}
    for name in sorted(state.keys() - verified.keys() - said):
        found.append(vanished(name, state[name][0], since))
    stated = [stream for stream in verified.values() if "://" in (stream.bucket or "")]
    for stream in stated:
        if stream.bucket not in (names or [stated[0].bucket]):
            found.append(finding("other-bucket", stream.name, None, (0, 1)))
    for stream in verified.values() if names or stated else ():
        expired = [line for line in stream.found if line["finding"] == "expired"]
        if any(line["first"] == 0 for line in expired) and stream.name not in state:
            found.append(finding("unopened", stream.name, None, (0, 1)))
    times = sorted(map(opened, state))
    for name in verified.keys() - state.keys() if times else ():
        if verified[name].key and times[0] < opened(name) < times[-1] - LONG_MS:
            found.append(finding("appeared", name))
    for stream in verified.values():
        has_ended = stream.closed is not None or stream.has_ended
        if not has_ended and stream.promise is not None and stream.promise < now:
            found.append(finding("overdue", stream.name, None, (stream.size, stream.size)))
    for stream in verified.values():
        found += sorted(stream.found, key=lambda line: line["first"] or 0)
    return sorted(found, key=lambda line: (line["stream"], line["first"] or 0))


def verify_directory(directory, hosts, **look):
    found = verify(read_directory(directory), hosts, **look)
    others = next(foreign(directory), None)
    return found if others is None else found + [finding("foreign-object", "", others)]


def lost_evidence(stream, size, is_remembered):
    codes = {"no-evidence": "stripped"}
    if is_remembered:
        codes["unknown-host"] = "other-key"
    if stream.key is None:
        stream.found = [
            finding(codes[line["finding"]], stream.name, None, (0, size))
            if line["finding"] in codes
            else line
            for line in stream.found
        ]


def vanished(name, size, since):
    code = "expired" if since is not None and opened(name) < since else "vanished"
    return finding(code, name, None, (0, size))


def compare(later, previous, verified, named, since, found):
    name, size, top = previous["stream"], previous["size"], unb64(previous["root"], 32)
    if name in named:
        return found.append(finding("two-successors", later))
    named.add(name)
    stream = verified.get(name)
    if stream is None:
        return found.append(vanished(name, size, since))
    stream.has_ended = True
    lost_evidence(stream, size, False)
    said = {line["finding"] for line in stream.found}
    if stream.is_open or said & {"truncated", "rewritten"}:
        return None
    if stream.size < size:
        found.append(finding("truncated", name, None, (stream.size, size)))
    elif stream.size > size:
        found.append(finding("after-end", name, None, (size, stream.size)))
    elif stream.root != top:
        found.append(finding("rewritten", name, None, (0, size)))


def is_key(key):
    """Returns whether a sink could have written this key. Other keys are ignored."""
    match = KEY.fullmatch(key)
    if not match:
        return False
    day, hour = re.search("dt=(.{10})/hour=(..)/", key).groups()
    try:
        datetime.date.fromisoformat(day)
    except ValueError:
        return False
    number = match[2] or match[5]
    return int(hour) < 24 and number == f"{int(number):012}" and int(number) <= MAX_NUMBER


def read_directory(directory):
    for path in sorted(directory.rglob("*")):
        key = path.relative_to(directory).as_posix()
        if not is_regular(path) or not is_key(key):
            continue
        metadata = read_sidecar(directory / f"_audit/heads/{key}.head")
        yield Object(key, metadata, lines_of(key, path.read_bytes()))


def is_regular(path):
    """Whether this is a file. Links are not followed."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def read_sidecar(path):
    if not is_regular(path):
        return {}
    with path.open("rb") as file:
        data = file.read(MAX_SIDECAR_BYTES + 1)
    try:
        lines = data.decode()
    except UnicodeDecodeError:
        return {}
    members = [line.split(" ", 1) for line in lines.removesuffix("\n").split("\n")]
    is_one = lines.endswith("\n") and all(len(member) == 2 for member in members)
    is_one &= len(data) <= MAX_SIDECAR_BYTES
    names = {member[0] for member in members}
    return dict(members) if is_one and len(names) == len(members) else {}


def foreign(directory):
    """Yields what query engines may take for records, and no writer left."""
    for day in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if not day.name.startswith("dt="):
            continue
        if not is_partition(day, lambda name: is_key(f"{name}/hour=00/{EXAMPLE}")):
            yield shown(day, day.name)
            continue
        for hour in sorted(os.scandir(day), key=lambda entry: entry.name):
            name = f"{day.name}/{hour.name}"
            if not is_partition(hour, lambda hour: is_key(f"{day.name}/{hour}/{EXAMPLE}")):
                yield shown(hour, name)
                continue
            for path in sorted(pathlib.Path(hour).rglob("*")):
                key = path.relative_to(directory).as_posix()
                is_directory = path.is_dir() and not path.is_symlink()
                is_object = is_regular(path) and is_key(key)
                if not is_directory and not is_object and not is_leftover(key):
                    yield key


def shown(entry, name):
    return f"{name}/" if entry.is_dir(follow_symlinks=False) else name


EXAMPLE = f"{'0' * 26}-{0:012}.ndjson"


def is_partition(entry, is_name):
    return entry.is_dir(follow_symlinks=False) and is_name(entry.name)


def is_leftover(name):
    key, mark, number = name.rpartition("#")
    return bool(mark) and re.fullmatch("[0-9]+", number) is not None and is_key(key)


class Damaged(Exception):
    pass


def lines_of(key, stored):
    """Reads an object. Returns None if it is damaged."""
    try:
        if key.endswith(".zst"):
            data = zstd_frame(stored)
        elif key.endswith(".gz"):
            data = gzip_member(stored)
        else:
            data = stored
    except (Damaged, zstandard.ZstdError, zlib.error):
        return None
    if not data.endswith(b"\n") or len(data) > MAX_LINES_BYTES:
        return None
    lines = data[:-1].split(b"\n")
    return lines if all(len(line) <= MAX_LINE_BYTES for line in lines) else None


def zstd_frame(stored):
    """The content of one frame, which is all there is."""
    # Decoders pass over skippable frames.
    if not stored.startswith(b"\x28\xb5\x2f\xfd"):
        raise Damaged
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    data = bytearray()
    # A piece expands to at most some megabytes.
    for at in range(0, len(stored), 128):
        if decoder.eof or len(data) > MAX_LINES_BYTES:
            raise Damaged
        data += decoder.decompress(stored[at : at + 128])
    if not decoder.eof or decoder.unused_data:
        raise Damaged
    return bytes(data)


def gzip_member(stored):
    """The content of one member without optional fields, which is all there is."""
    if not stored.startswith(b"\x1f\x8b\x08\x00"):
        raise Damaged
    inflate = zlib.decompressobj(wbits=31)
    data = inflate.decompress(stored, MAX_LINES_BYTES + 1)
    if not inflate.eof or inflate.unused_data:
        raise Damaged
    return data


def check_proof(text, record, key):
    """Returns the reason why a proof is invalid, or None if it is valid."""
    name, host = key
    try:
        head, _, note = text.partition("\n\n")
        header, extra, index, *path = head.split("\n")
        text, signatures = read_note(note)
        origin, size, top, extensions = text.split("\n", 3)
        size, top = decimal(size), unb64(top, 32)
        index = decimal(index.removeprefix("index ")) if index.startswith("index ") else None
        path = [unb64(line, 32) for line in path]
        salt = unb64(extra.removeprefix("extra "), 32)
    except ValueError:
        return "not a proof"
    is_extended = extensions and (extensions.startswith("\n") or "\n\n" in extensions)
    if header != "c2sp.org/tlog-proof@v1" or not extra.startswith("extra ") or index is None:
        return "not a proof"
    if is_extended or not origin:
        return "not a proof"
    if not leads_to(sha(b"\0", salt, record), index, size, top, path):
        return "the path does not lead to the root"
    kind = sha(name.encode(), b"\n\xffaudit-stream/v1")[:4]
    for by, identity, data in signatures:
        if (by, identity) != (name, kind) or len(data) != 32 + 64:
            continue
        try:
            stream_key, certificate = public_key(data[:32]), data[32:]
        except ValueError:
            continue
        message = f"audit-stream/v1\n{origin}\n{b64(stream_key)}\n".encode()
        is_below = origin.startswith(f"{name}/") and "/" not in origin[len(name) + 1 :]
        if is_below and is_signed(host, certificate, message):
            break
    else:
        return "no certificate by the host"
    if not is_signed_by(origin, 1, stream_key, signatures, text):
        return "the stream did not sign the checkpoint"
    return None


def read_note(note):
    """Returns the text of a note, and of each signature the name, the id and the bytes."""
    text, empty, lines = note.rpartition("\n\n")
    if not empty or not lines.endswith("\n") or any(c < " " and c != "\n" for c in text):
        raise ValueError(note)
    signatures = []
    for line in lines.removesuffix("\n").split("\n"):
        dash, name, data = line.split(" ")
        data = unb64(data)
        if dash != "—" or len(data) < 5 or not name or "+" in name:
            raise ValueError(line)
        signatures.append((name, data[:4], data[4:]))
    return text + "\n", signatures


def is_signed_by(name, kind, key, signatures, text):
    """Whether the key signed a note, and nothing else is in its name."""
    ours = [data for by, id, data in signatures if (by, id) == (name, key_id(name, kind, key))]
    for data in ours:
        message = text
        if kind == 4:
            if len(data) != 72 or data[0] >> 7:
                return False
            time = int.from_bytes(data[:8], "big")
            message, data = f"cosignature/v1\ntime {time}\n{text}", data[8:]
        if len(data) != 64 or not is_signed(key, data, message.encode()):
            return False
    return bool(ours)


def leads_to(leaf, index, size, top, path):
    if index >= size:
        return False
    at, last, hash_ = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            hash_ = node(sibling, hash_)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            hash_ = node(hash_, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and hash_ == top


# Reading and generating buckets.


def run_case(case, shared):
    objects = [shared[one] if isinstance(one, int) else one for one in case["objects"]]
    objects = [
        Object(one["key"], one["metadata"], [line.encode() for line in one["lines"]])
        for one in objects
    ]
    state = {}
    for line in case.get("state", "").split("\n")[1:-1]:
        stream, size, top, _ = line.split(" ")
        state[stream] = (decimal(size), unb64(top, 32))
    hosts = [(verifier_key(key), ALWAYS) for key in case["keys"]]
    for at, begin, end in case.get("validity", []):
        hosts[at] = (hosts[at][0], (begin, end))
    receipts = {
        stream: [(first, end) for first, end in ranges]
        for stream, ranges in case.get("receipts", {}).items()
    }
    names = case.get("names", ())
    return verify(objects, hosts, state, receipts, case.get("since"), case["now"], names)


def run_cases(file):
    content = json.loads(pathlib.Path(file).read_text())
    cases = content["cases"]
    for case in cases:
        found = run_case(case, content["objects"])
        if found != case["findings"]:
            sys.exit(f"{case['name']}: found {found}\nand not {case['findings']}")
    print(f"{file}: {len(cases)} buckets are judged alike")


class Writer:
    """A host that writes one stream."""

    def __init__(self, stream, host="example.com/api", host_seed=b"\1" * 32, seed=b"\2" * 32):
        self.stream, self.host, self.frontier, self.size = stream, host, [], 0
        self.origin = f"{host}/{stream}"
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        message = f"audit-stream/v1\n{self.origin}\n{b64(self.public)}\n".encode()
        self.certificate = Ed25519PrivateKey.from_private_bytes(host_seed).sign(message)

    def write(self, lines, stable=0, system=False, day="dt=2025-11-24", suffix=".ndjson"):
        part, suffix = ("_audit/", ".system") if system else ("", suffix)
        key = f"{part}{day}/hour=16/{self.stream}-{self.size:012}{suffix}"
        seed = sha(key.encode())
        salts = sha(f"audit-object/v1\n{key}\n{stable}\n".encode(), seed)
        left = b"".join(top for _, top in self.frontier)
        for line in lines:
            salt = sha(salts, struct.pack(">Q", self.size))
            append(self.frontier, sha(b"\0", salt, line.encode()))
            self.size += 1
        top = root(self.frontier)
        metadata = {
            "format": "2",
            "lastsequence": str(self.size - 1),
            "count": str(len(lines)),
            "sha256": hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest(),
            "stable": str(stable),
            "seed": b64(seed),
            "left": b64(left),
            "root": b64(top),
            "sig": b64(self.key.sign(checkpoint(self.origin, self.size, top))),
            "name": self.host,
            "streamkey": b64(self.public),
            "cert": b64(self.certificate),
        }
        return {"key": key, "metadata": metadata, "lines": lines}

    def say(self, event, stable=0, **members):
        record = {"$audit": {"event": event, "at": NOW - 10} | members}
        return self.write([json.dumps(record, separators=(",", ":"))], stable, system=True)


NOW = 1_764_000_000_000
STREAMS = [f"01KAVX{number}0000123456789ABCDEF" for number in range(3)]


def whole_bucket():
    """A stream ended by a crash, the statement of the next one about it, and one that continues."""
    host = Ed25519PrivateKey.from_private_bytes(b"\1" * 32).public_key()
    public = host.public_bytes(Encoding.Raw, PublicFormat.Raw)
    key = f"example.com/api+{key_id('example.com/api', 1, public).hex()}+{b64(b'%c' % 1 + public)}"
    objects, previous = [], {}
    for number, stream in enumerate(STREAMS):
        writer = Writer(stream, seed=bytes([number + 2]) * 32)
        opened_with = {"host": "example.com/api", "software": "second", "key": key}
        objects.append(writer.say("opened", next=NOW + 10, **opened_with, **previous))
        for count in (1, 4, 3):
            lines = [f'{{"record":{writer.size + i}}}' for i in range(count)]
            objects.append(writer.write(lines, stable=writer.size))
        objects.append(writer.say("heartbeat", stable=writer.size, next=NOW + 10))
        if number == 1:
            objects.append(writer.say("closed", stable=writer.size))
        end = {"stream": stream, "size": writer.size, "root": b64(root(writer.frontier))}
        previous = {"previous": end}
    return key, objects


def make(file):
    key, whole = whole_bucket()
    middle = whole[2]
    cases = []

    def case(name, change, **look):
        objects = json.loads(json.dumps(whole))
        at = {one["key"]: one for one in objects}
        changed = change(objects, at[middle["key"]])
        changed = changed if isinstance(changed, list) else objects
        # An unchanged object is written as its place.
        changed = [whole.index(one) if one in whole else one for one in changed]
        one = {"name": name, "keys": [key], "now": NOW} | look | {"objects": changed}
        cases.append(one | {"findings": run_case(one, whole)})

    def of(objects, stream):
        return [one for one in objects if STREAMS[stream] in one["key"]]

    def set_to(field, value):
        def change(objects, one):
            one["metadata"][field] = value

        return change

    case("nothing is changed", lambda objects, one: None)
    case("the host is silent", lambda objects, one: None, now=NOW + 20)
    case("a byte is altered", lambda objects, one: one["lines"].__setitem__(1, "{}"))
    case("a record is dropped", lambda objects, one: one["lines"].pop())
    case("an object is deleted", lambda objects, one: objects.remove(one))
    case("an object is stripped", lambda objects, one: one["metadata"].clear())
    for field in FIELDS:
        case(f"{field} is missing", lambda objects, one: one["metadata"].pop(field) and None)
        case(f"{field} is another", set_to(field, middle["metadata"][field][:-1] + "1"))
        other = whole[3]["metadata"][field]
        case(f"{field} is a neighbour's", set_to(field, other))
    others = [one for one in whole if STREAMS[1] not in one["key"]]
    case("a stream is gone", lambda objects, one: others)
    case("a tail is cut", lambda objects, one: objects.remove(of(objects, 0)[-1]))
    last = of(whole, 2)[-1]["metadata"]
    state = f"audit state 1\n{STREAMS[2]} {int(last['lastsequence']) + 1} {last['root']} open\n"
    case("a tail is cut that is known", lambda o, one: o.remove(of(o, 2)[-1]), state=state)
    other = state.replace(last["root"], middle["metadata"]["root"])
    case("a known stream is another", lambda objects, one: None, state=other)
    receipts = {STREAMS[2]: [[8, 12]]}
    case("a receipt is for more", lambda objects, one: None, receipts=receipts)
    case("the first records are gone", lambda o, one: o.remove(of(o, 0)[1]))
    case("and should not be", lambda o, one: o.remove(of(o, 0)[1]), since=1)
    case("all is by a stranger", lambda objects, one: None, keys=[])

    def strip(objects, one):
        for other in of(objects, 0):
            other["metadata"].clear()

    case("a stream is stripped that the next one names", strip)

    def strip_last(objects, one):
        for other in of(objects, 2):
            other["metadata"].clear()

    case("a stream is stripped", strip_last)
    case("a stream is stripped that is known", strip_last, state=state)
    case("a known stream is by a stranger", lambda objects, one: None, keys=[], state=state)

    def put(**members):
        def change(objects, one):
            objects.append(one | members)

        return change

    day = middle["key"].replace("11-24", "11-25")
    case("an object is copied", put(key=day))

    def sign_weakly(objects, one):
        """Signs with the stream's key and a point of small order, on which verifiers disagree."""
        signer = Writer(STREAMS[0])
        origin, head = signer.origin, one["metadata"]
        text = checkpoint(origin, int(head["lastsequence"]) + 1, unb64(head["root"]))
        secret = bytearray(hashlib.sha512(b"\2" * 32).digest()[:32])
        secret[0] &= 248
        secret[31] = secret[31] & 63 | 64
        point = (1).to_bytes(32, "little")
        digest = hashlib.sha512(point + signer.public + text).digest()
        scalar = int.from_bytes(digest, "little") * int.from_bytes(secret, "little") % ORDER
        head["sig"] = b64(point + scalar.to_bytes(32, "little"))

    case("a signature has a point of small order", sign_weakly)
    fork = Writer(STREAMS[0])
    fork.say("opened", next=NOW + 10, host="example.com/api", software="second", key=key)
    fork.write(['{"record":1}'])
    forked = fork.write(['{"record":"other"}'] * 4)
    case("the host signs other records", lambda objects, one: one.update(forked))
    day = forked["key"].replace("11-24", "11-25")
    elsewhere = Writer(STREAMS[0])
    elsewhere.frontier, elsewhere.size = frontier_of(2, unb64(middle["metadata"]["left"])), 2
    aside = Writer(STREAMS[0])
    heads = [aside.say("opened", next=NOW + 10, host="example.com/api", software="second", key=key)]
    written = [aside.write([f'{{"record":{n}}}'] * 2, stable=1) for n in range(4)]
    written.append(aside.say("void", first=3, count=2, reason="taken", stable=3))
    written.append(aside.write(['{"record":9}'], stable=10))
    taken = written[1] | {"metadata": {}, "lines": ["{}"]}

    def set_aside(*without):
        def change(objects, one):
            rest = [one for one in written if one not in without]
            return heads + [taken] + rest

        return change

    case("records are set aside", set_aside(written[1]))
    case("and those behind are deleted", set_aside(*written[1:3]))
    case("and more of those behind", set_aside(*written[1:4]))

    def is_all(*objects):
        return lambda _objects, _one: list(objects)

    told = {"host": "example.com/api", "software": "second", "key": key}
    liar = Writer(STREAMS[0])
    old = [
        liar.say("opened", next=NOW + 10, at=0, **told),
        liar.write(['{"record":1}'] * 3),
        liar.write(['{"record":4}'], stable=4),
    ]
    case("what is gone is said to be old", is_all(old[0], old[2]), since=opened(STREAMS[0]))
    case("the host signs two histories", put(**elsewhere.write(["{}"] * 4, day=day[:13])))
    objects = ",\n".join(json.dumps(one, separators=(",", ":")) for one in whole)
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in cases)
    pathlib.Path(file).write_text(f'{{"objects":[\n{objects}\n],"cases":[\n{lines}\n]}}\n')


def write(file, directory):
    for one in json.loads(pathlib.Path(file).read_text())["objects"]:
        members = [f"{name} {value}\n" for name, value in one["metadata"].items()]
        sidecar = f"_audit/heads/{one['key']}.head"
        lines = [f"{line}\n" for line in one["lines"]]
        for key, content in ((sidecar, members), (one["key"], lines)):
            path = pathlib.Path(directory, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(content))


def main():
    command, *arguments = sys.argv[1:]
    if command == "cases":
        return run_cases(*arguments)
    if command == "make":
        return make(*arguments)
    if command == "write":
        return write(*arguments)
    if command == "check":
        proof, record, key = arguments
        record = pathlib.Path(record).read_bytes().removesuffix(b"\n")
        why = check_proof(pathlib.Path(proof).read_text(), record, verifier_key(key))
        print(why or "proven")
        return why and 1
    directory, key, *options = arguments
    options = list(zip(options[::2], options[1::2]))
    witnesses = [verifier_key(text) for name, text in options if name == "--witness"]
    times = {name: int(text) for name, text in options if name != "--witness"}
    since, now = times.get("--since"), times.get("--now", 0)
    hosts = [(verifier_key(key), ALWAYS)]
    found = verify_directory(
        pathlib.Path(directory), hosts, since=since, now=now, witnesses=witnesses
    )
    for line in found:
        print(json.dumps(line, separators=(",", ":")))
    return any(line["alarm"] == "tampered" for line in found)


if __name__ == "__main__":
    sys.exit(main())
