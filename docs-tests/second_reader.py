#!/usr/bin/env python3
"""Reads a bucket in a directory, or a journal, by docs/FORMAT.md alone.

    second_reader.py bucket DIRECTORY
    second_reader.py journal DIRECTORY

Prints each record as {"stream":…,"sequence":…,"record":…}, a line each, in no order. Fails on
whatever is not as that page says. Needs `pip install zstandard`.
"""

import gzip
import io
import pathlib
import re
import sys

import zstandard

ULID = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
KEY = re.compile(
    rf"dt=(\d{{4}}-\d{{2}}-\d{{2}})/hour=(\d{{2}})/({ULID})-(\d{{12,}})\.ndjson(\.zst|\.gz|)"
)
BLOCK = 4096

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data, begun_with=0):
    state = begun_with ^ 0xFFFFFFFF
    for byte in data:
        state = TABLE[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ 0xFFFFFFFF


def check(holds, what):
    if not holds:
        raise SystemExit(f"not as docs/FORMAT.md says: {what}")


def show(stream, first, lines):
    check(lines.endswith(b"\n"), f"{stream} from {first} on: the last line has its line feed")
    for sequence, line in enumerate(lines[:-1].split(b"\n"), first):
        place = f'{{"stream":"{stream}","sequence":{sequence},"record":'
        sys.stdout.buffer.write(place.encode() + line + b"}\n")


def read_bucket(root):
    for path in sorted(root.rglob("*")):
        key = path.relative_to(root).as_posix()
        match = KEY.fullmatch(key)
        if not path.is_file() or not match:
            continue
        _, _, stream, first, suffix = match.groups()
        stored = path.read_bytes()
        if suffix == ".zst":
            decoder = zstandard.ZstdDecompressor()
            lines = decoder.stream_reader(io.BytesIO(stored), read_across_frames=True).read()
        elif suffix == ".gz":
            lines = gzip.decompress(stored)
        else:
            lines = stored
        show(stream, int(first), lines)


def header(pattern, data, salt, what):
    """Parses a header by a pattern of its fields, and checks its checksum."""
    match = re.match(pattern.encode() + rb"([0-9a-f]{8})\n", data)
    check(match, f"{what}: its form")
    check(int(match[match.lastindex], 16) == crc32c(data[: match.end() - 9], salt), f"{what}: sum")
    return [field.decode() for field in match.groups()[:-1]], match.end()


def read_journal(root):
    begin, ordinals = 1, []
    for path in root.iterdir():
        if path.name == "begin":
            (fields, _) = header("audit begin 1 segment ([0-9a-f]{8}) ", path.read_bytes(), 0, path)
            begin = int(fields[0], 16)
        elif match := re.fullmatch(r"([0-9a-f]{8})\.journal", path.name):
            ordinals.append(int(match[1], 16))
        elif match := re.fullmatch(rf"({ULID})\.delivered", path.name):
            header("audit delivered 1 next ([0-9a-f]{16}) ", path.read_bytes(), 0, path)
        elif re.fullmatch(rf"{ULID}-\d{{12,}}\.(object|conflict)", path.name):
            read_object(path)
    needed = sorted(ordinal for ordinal in ordinals if ordinal >= begin)
    check(needed == list(range(begin, begin + len(needed))), "ordinals have no gaps")
    chain = []
    for ordinal in needed:
        groups = read_segment(root / f"{ordinal:08x}.journal", ordinal)
        if groups and chain and is_given_up(chain[-1], groups[0]):
            chain.pop()
        chain += groups
    for before, group in zip(chain, chain[1:]):
        check(group["durable"] == before["end"], f"{group['where']}: the chain")
    for group in chain:
        for sequence, lines in group["batches"]:
            show(group["stream"], sequence, lines)


def is_given_up(last, group):
    """Returns whether a later segment begins by saying that this last group found no space."""
    return all(last[name] == group[name] for name in ("durable", "stream", "first"))


def read_object(path):
    data = path.read_bytes()
    pattern = (
        f"audit object 1 stream ({ULID}) first ([0-9a-f]{{16}}) count ([0-9a-f]{{16}}) "
        "time ([0-9a-f]{16}) as (zstd|gzip|none) bytes ([0-9a-f]{16}) sum ([0-9a-f]{8}) "
        "sha256 ([0-9a-f]{64}) "
    )
    fields, end = header(pattern, data, 0, path)
    check(len(data) == end + int(fields[5], 16), f"{path}: its length")
    check(crc32c(data[end:]) == int(fields[6], 16), f"{path}: the object's checksum")


def read_segment(path, ordinal):
    data = path.read_bytes()
    pattern = "audit journal 1 segment ([0-9a-f]{8}) salt ([0-9a-f]{8}) bytes ([0-9a-f]{16}) "
    fields, _ = header(pattern, data, 0, path)
    check(int(fields[0], 16) == ordinal, f"{path}: its ordinal")
    check(int(fields[2], 16) == len(data), f"{path}: its length")
    salt, at, groups = int(fields[1], 16), BLOCK, []
    while at < len(data) and any(data[at : at + 159]):
        try:
            group, at = read_group(data, at, salt, f"{path} at {at}")
        except SystemExit:
            # An incomplete group was torn if a part of it is zero. Nothing follows it.
            check(is_torn(data, at), f"{path} at {at}: the group is damaged")
            return groups
        group["end"] = (ordinal, at)
        groups.append(group)
    check(len({group["stream"] for group in groups}) <= 1, f"{path}: it holds one stream")
    check(data.count(0, at) == len(data) - at, f"{path} at {at}: zeros behind the last group")
    return groups


def is_torn(data, at):
    """Returns whether there is a zero byte where a complete group has none."""
    length = re.match(rb"group .{81} bytes ([0-9a-f]{8}) ", data[at : at + BLOCK], re.DOTALL)
    end = at + (159 + int(length[1], 16) if length else BLOCK)
    return 0 in data[at:end]


def read_group(data, at, salt, where):
    pattern = (
        f"group ({ULID}) first ([0-9a-f]{{16}}) count ([0-9a-f]{{8}}) batches ([0-9a-f]{{8}}) "
        r"bytes ([0-9a-f]{8}) durable ([0-9a-f]{8})\+([0-9a-f]{16}) sum ([0-9a-f]{8}) "
    )
    fields, length = header(pattern, data[at : at + BLOCK], salt, where)
    stream, numbers = fields[0], [int(field, 16) for field in fields[1:]]
    first, count, batches, length_of_batches, *durable, batch_sum = numbers
    group = {"stream": stream, "first": first, "durable": tuple(durable), "where": where}
    group["batches"] = []
    place, sequence, sum_of_headers = at + length, first, salt
    for _ in range(batches):
        head = data[place : place + 80]
        batch = re.fullmatch(
            rb"batch 00000000 time [0-9a-f]{16} count ([0-9a-f]{8}) bytes ([0-9a-f]{8}) "
            rb"sum ([0-9a-f]{8})\n",
            head,
        )
        check(batch, f"{where}: the header of the batch at {place}")
        records, length = int(batch[1], 16), int(batch[2], 16)
        lines = data[place + 80 : place + 80 + length]
        found = crc32c(lines, crc32c(head[:67]))
        check(int(batch[3], 16) == found, f"{where}: the checksum of the batch at {place}")
        check(lines.count(b"\n") == records, f"{where}: the count of the batch at {place}")
        group["batches"].append((sequence, lines))
        sum_of_headers = crc32c(head, sum_of_headers)
        sequence, place = sequence + records, place + 80 + length
    check(sum_of_headers == batch_sum, f"{where}: the group's sum of headers")
    check(sequence == first + count, f"{where}: the group's count")
    check(place == at + 159 + length_of_batches, f"{where}: the group's length")
    return group, (place + BLOCK - 1) // BLOCK * BLOCK


if __name__ == "__main__":
    {"bucket": read_bucket, "journal": read_journal}[sys.argv[1]](pathlib.Path(sys.argv[2]))
