#!/usr/bin/env python3
"""Compares `audit` with the second verifier on changed files.

    changed_files.py AUDIT [COUNT]

The files are those of a bucket in a directory: containers of lines (zstd, gzip, none), sidecars,
and such that no writer left; and proofs. COUNT random changes of each compressed object and of the
proof follow those that are named here.
"""

import gzip
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import second_verifier as second
import zstandard

STREAM = second.STREAMS[0]
DAY = "dt=2025-11-24"
HOUR = f"{DAY}/hour=16"
SKIPPABLE = b"\x5a\x2a\x4d\x18\x04\0\0\0abcd"


def zstd(data, **how):
    window = how.pop("window", None)
    if window:
        how["compression_params"] = zstandard.ZstdCompressionParameters.from_level(
            3, window_log=window, write_content_size=False
        )
    compressor = zstandard.ZstdCompressor(**how)
    if not window:
        return compressor.compress(data)
    # Without the size of the content, a frame states its window.
    stream = compressor.compressobj()
    return stream.compress(data) + stream.flush()


def raw_frame(data):
    """A frame of one block that is not compressed."""
    block = (len(data) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)]) + block + data


def member(data, flags=0, fields=b"", time=0, system=3):
    """A member of gzip with these fields in its header."""
    deflate = zlib.compressobj(wbits=-15)
    body = deflate.compress(data) + deflate.flush()
    head = b"\x1f\x8b\x08" + bytes([flags]) + time.to_bytes(4, "little") + bytes([0, system])
    tail = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return head + fields + body + tail


def halves(data):
    at = data.index(b"\n") + 1
    return data[:at], data[at:]


def of_zstd(data):
    good = zstd(data)
    one, other = halves(data)
    window = bytearray(zstd(data, window=23))
    yield "level 19", zstd(data, level=19)
    yield "a checksum", zstd(data, write_checksum=True)
    yield "no checksum", zstd(data, write_checksum=False)
    yield "no size of the content", zstd(data, write_content_size=False)
    yield "another checksum", zstd(data, write_checksum=True)[:-1] + b"\0"
    yield "the largest window", bytes(window)
    window[5] += 8
    yield "a larger window", bytes(window)
    yield "a block that is not compressed", raw_frame(one)
    yield "two frames", zstd(one) + zstd(other)
    yield "a frame twice", good + good
    yield "a frame of nothing behind", good + zstd(b"")
    yield "a frame of nothing before", zstd(b"") + good
    yield "a frame of nothing", zstd(b"")
    yield "a skippable frame before", SKIPPABLE + good
    yield "a skippable frame behind", good + SKIPPABLE
    yield "a skippable frame between", zstd(one) + SKIPPABLE + zstd(other)
    yield "only a skippable frame", SKIPPABLE
    yield "part of a skippable frame behind", good + SKIPPABLE[:6]
    yield "a byte behind", good + b"\0"
    yield "a dictionary", good[:4] + bytes([good[4] | 1]) + b"\5" + good[5:]
    yield "the magic of version 0.7", b"\x27" + good[1:]
    yield "a gzip member", member(data)
    yield "lines without compression", data
    for length in range(len(good)):
        yield f"{length} bytes of {len(good)}", good[:length]


def of_gzip(data):
    good = member(data)
    one, other = halves(data)
    yield "another library", gzip.compress(data)
    yield "a time and a system", member(data, time=7, system=255)
    yield "a name", member(data, 8, b"name\0")
    yield "a comment", member(data, 16, b"comment\0")
    yield "an extra field", member(data, 4, b"\2\0ab")
    yield "a checksum of the header", member(data, 2, b"\0\0")
    yield "the flag of text", member(data, 1)
    yield "a reserved flag", member(data, 0x80)
    yield "two members", member(one) + member(other)
    yield "a member twice", good + good
    yield "a member of nothing behind", good + member(b"")
    yield "a member of nothing", member(b"")
    yield "zeros behind", good + bytes(512)
    yield "another checksum", good[:-8] + bytes(4) + good[-4:]
    yield "another length", good[:-4] + bytes(4)
    yield "a zstd frame", zstd(data)
    for length in range(len(good)):
        yield f"{length} bytes of {len(good)}", good[:length]


def of_lines(data):
    yield "nothing", b""
    yield "a line feed", b"\n"
    yield "no line feed at the end", data[:-1]
    yield "a line feed more", data + b"\n"
    yield "a line less", halves(data)[1]
    yield "carriage returns", data.replace(b"\n", b"\r\n")
    yield "the longest line", b"x" * second.MAX_LINE_BYTES + b"\n"
    yield "a longer line", b"x" * (second.MAX_LINE_BYTES + 1) + b"\n"
    yield "a zstd frame", zstd(data)


def of_sidecar(text):
    def padded(length):
        return text + b"padding " + b"x" * (length - len(text) - 9) + b"\n"

    yield "the longest", padded(4096)
    yield "one that is too long", padded(4097)
    yield "one that is much too long", padded(1 << 20)
    yield "nothing", b""
    yield "a line feed", b"\n"
    yield "no line feed at the end", text[:-1]
    yield "an empty line", text + b"\n"
    yield "a line without a value", text + b"alone\n"
    yield "an empty value", text + b"empty \n"
    yield "an empty name", text + b" empty\n"
    yield "a name twice", text + text.splitlines(keepends=True)[0]
    yield "carriage returns", text.replace(b"\n", b"\r\n")
    yield "no UTF-8", text + b"other \xff\n"
    yield "a byte order mark", b"\xef\xbb\xbf" + text
    yield "other separators of lines", text + b"a b\x0bc d\x85e\xe2\x80\xa8f\n".replace(b"\x85", b"\xc2\x85")
    yield "a tab", text.replace(b" ", b"\t", 1)
    yield "two blanks", text.replace(b" ", b"  ", 1)
    for name in second.FIELDS:
        lines = text.decode().splitlines(keepends=True)
        at = next((at for at, line in enumerate(lines) if line.startswith(f"{name} ")), None)
        if at is None:
            continue
        value = lines[at].split(" ", 1)[1]
        for what, now in [
            ("missing", ""),
            ("empty", f"{name} \n"),
            ("with a blank", f"{name} {value[:-1]} \n"),
            ("with a zero before", f"{name} 0{value}"),
            ("with a plus", f"{name} +{value}"),
            ("with one character less", f"{name} {value[:-2]}\n"),
            ("in upper case", f"{name} {value.upper()}"),
            ("of 2^64", f"{name} {1 << 64}\n"),
            ("in other digits", f"{name} \u0661\n"),
        ]:
            yield f"{name} {what}", "".join([*lines[:at], now, *lines[at + 1 :]]).encode()


def put(path, content=b"{}\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def of_names():
    def at(name):
        return lambda bucket: put(bucket / name)

    def link(name, to):
        def change(bucket):
            (bucket / name).parent.mkdir(parents=True, exist_ok=True)
            (bucket / name).symlink_to(to)

        return change

    other = f"{STREAM}-000000000099.ndjson"
    for name in (
        f"{HOUR}/inserted.ndjson",
        f"{HOUR}/inserted.ndjson.zst",
        f"{HOUR}/deeper/{other}",
        f"{HOUR}/deeper/and/deeper",
        f"{HOUR}/{other}.zst.tmp",
        f"{HOUR}/{other}#1",
        f"{HOUR}/{other}#x",
        f"{HOUR}/{other}#",
        f"{HOUR}/inserted#1",
        f"{HOUR}/{STREAM}-99.ndjson",
        f"{HOUR}/{STREAM}-0000000000099.ndjson",
        f"{HOUR}/{STREAM}-000000000099.system",
        f"{HOUR}/{STREAM.lower()}-000000000099.ndjson",
        f"{DAY}/inserted.ndjson",
        f"{DAY}/{other}#1",
        f"{DAY}/hour=16x/inserted.ndjson",
        f"{DAY}/hour=24/{other}",
        f"{DAY}/hour=7/{other}",
        f"{DAY}/minute=1/{other}",
        f"{DAY}x/hour=16/inserted.ndjson",
        f"dt=2025-02-30/hour=16/{other}",
        f"dt=2025-1-01/hour=16/{other}",
        "dt=x",
        "dt=",
        "dta",
        "inserted.ndjson",
        "reports/2025.html",
        f"_audit/{DAY}/hour=16/inserted.ndjson",
        f"_audit/{DAY}/hour=16/{other}",
        "_audit/unfinished/1",
    ):
        yield name, at(name)
    for name in (f"{HOUR}/deeper", f"{DAY}/hour=17", f"{DAY}/x", "dt=2025-11-25", "dt=x"):
        yield f"an empty directory {name}", lambda bucket, name=name: (bucket / name).mkdir()
    for name in (f"{HOUR}/{other}", f"{DAY}/hour=17", "dt=2025-11-25", "dt=x"):
        yield f"a link {name}", link(name, "../../other")
        yield f"a link {name} to a directory", link(name, "/tmp")
    yield "a pipe", lambda bucket: os.mkfifo(bucket / HOUR / other)


def whole_bucket(suffix):
    """A stream whose object of records has this suffix, and that object's key and lines."""
    public = second.whole_bucket()[0]
    writer = second.Writer(STREAM)
    objects = [
        writer.say("opened", next=second.NOW, host="example.com/api", software="second", key=public)
    ]
    lines = [json.dumps({"user": f"user{n}", "n": n * n, "at": second.NOW}) for n in range(6)]
    objects.append(writer.write(lines, stable=1, suffix=suffix))
    objects.append(writer.say("closed", stable=writer.size))
    return public, objects, objects[1]["key"], "".join(f"{line}\n" for line in lines).encode()


def cases(count):
    """Yields what is changed, the suffix of the object, and a function that changes the bucket."""
    containers = {".ndjson.zst": (of_zstd, zstd), ".ndjson.gz": (of_gzip, member), ".ndjson": (of_lines, bytes)}
    for suffix, (named, encode) in containers.items():
        _, _, key, data = whole_bucket(suffix)
        stored = list(named(data))
        chance = random.Random(suffix)
        good = encode(data)
        for number in range(count if suffix != ".ndjson" else 0):
            changed = bytearray(good)
            for _ in range(chance.choice((1, 1, 1, 2, 5))):
                at = chance.randrange(len(changed))
                how = chance.randrange(4)
                if how == 0:
                    changed[at] ^= 1 << chance.randrange(8)
                elif how == 1:
                    changed[at] = chance.randrange(256)
                elif how == 2:
                    del changed[at]
                else:
                    changed.insert(at, chance.randrange(256))
            stored.append((f"random {number}", bytes(changed)))
        for name, content in stored:
            yield f"{suffix}: {name}", suffix, lambda bucket, k=key, c=content: put(bucket / k, c)
    _, objects, key, _ = whole_bucket(".ndjson")
    sidecar = f"_audit/heads/{key}.head"
    text = "".join(f"{name} {value}\n" for name, value in objects[1]["metadata"].items()).encode()
    for name, content in of_sidecar(text):
        yield f"sidecar: {name}", ".ndjson", lambda bucket, c=content: put(bucket / sidecar, c)

    def instead(make):
        def change(bucket):
            (bucket / sidecar).unlink()
            make(bucket / sidecar)

        return change

    yield "sidecar: missing", ".ndjson", instead(lambda path: None)
    yield "sidecar: a directory", ".ndjson", instead(lambda path: path.mkdir())
    yield "sidecar: a pipe", ".ndjson", instead(os.mkfifo)
    yield "sidecar: a device", ".ndjson", instead(lambda path: path.symlink_to("/dev/zero"))

    def huge(path):
        put(path, text)
        os.truncate(path, 1 << 40)

    yield "sidecar: a tebibyte", ".ndjson", instead(huge)
    for name, change in of_names():
        yield f"foreign: {name}", ".ndjson", change


def judged(audit, root, number, suffix, change):
    """Returns what both verifiers find."""
    bucket = root / str(number)
    public, objects, key, data = whole_bucket(suffix)
    encode = {".ndjson.zst": zstd, ".ndjson.gz": member, ".ndjson": bytes}[suffix]
    for one in objects:
        lines = "".join(f"{line}\n" for line in one["lines"]).encode()
        put(bucket / one["key"], encode(data) if one["key"] == key else lines)
        members = [f"{name} {value}\n" for name, value in one["metadata"].items()]
        put(bucket / f"_audit/heads/{one['key']}.head", "".join(members).encode())
    change(bucket)
    ran = subprocess.run(
        [audit, "verify", bucket, "--key", public, "--json"], capture_output=True, text=True
    )
    if ran.returncode not in (0, 1, 4):
        return ran, None
    ours = [line for line in map(json.loads, ran.stdout.splitlines()) if "finding" in line]
    assert all(line.pop("what") for line in ours)
    hosts = [(second.verifier_key(public), second.ALWAYS)]
    theirs = second.verify_directory(bucket, hosts)
    shutil.rmtree(bucket)
    return ours, theirs


def of_proof(text, good, chance, count):
    """Yields changed proofs. The stream's key signs the texts of `good(TEXT)`."""
    head, signed, signatures = text.split("\n\n")
    lines = signatures.splitlines(keepends=True)
    header, extra, index, *path = head.split("\n")
    yield "unchanged", text
    for name, now in [
        ("another header", [header + " ", extra, index, *path]),
        ("no extra", [header, index, *path]),
        ("two extras", [header, extra, extra, index, *path]),
        ("extra behind", [header, index, extra, *path]),
        ("an empty extra", [header, "extra ", index, *path]),
        ("a longer extra", [header, f"extra {second.b64(bytes(33))}", index, *path]),
        ("a zero before the index", [header, extra, index.replace(" ", " 0"), *path]),
        ("a plus before the index", [header, extra, index.replace(" ", " +"), *path]),
        ("a blank behind the index", [header, extra, index + " ", *path]),
        ("another index", [header, extra, "index 0", *path]),
        ("an index beyond the tree", [header, extra, f"index {1 << 63}", *path]),
        ("no path", [header, extra, index]),
        ("a longer path", [header, extra, index, *path, path[-1]]),
        ("a path of another order", [header, extra, index, *path[::-1]]),
        ("a hash without padding", [header, extra, index, path[0].rstrip("="), *path[1:]]),
        ("a long path", [header, extra, index, *path * 80]),
    ]:
        yield name, "\n\n".join(["\n".join(now), signed, signatures])
    for name, now in [
        ("nothing signed", ""),
        ("no certificate", lines[0]),
        ("the certificate first", lines[1] + lines[0]),
        ("the certificate twice", lines[1] + signatures),
        ("the signature twice", lines[0] + signatures),
        ("an empty line behind", signatures + "\n"),
        ("data behind", signatures + "data\n"),
        ("data behind without an end", signatures + "data"),
        ("no line feed at the end", signatures[:-1]),
        ("carriage returns", signatures.replace("\n", "\r\n")),
        ("a hyphen for the dash", signatures.replace("—", "-")),
        ("two blanks", signatures.replace(" ", "  ")),
        ("a signature by nobody", signatures + f"— nobody {second.b64(bytes(68))}\n"),
        ("a signature of nothing", signatures + f"— nobody {second.b64(bytes(4))}\n"),
        ("a short signature", signatures + f"— nobody {second.b64(bytes(5))}\n"),
        ("another signature by the stream", signatures + lines[0][:-12] + "AAAAAAAAAA==\n"),
        ("an invalid certificate before", lines[1][:-12] + "AAAAAAAAAA==\n" + signatures),
        ("a name with a plus", signatures + f"— no+body {second.b64(bytes(68))}\n"),
    ]:
        yield name, "\n\n".join([head, signed, now])
    origin, size, top = signed.split("\n")
    for name, now in [
        ("an extension", f"{origin}\n{size}\n{top}\nextension\n"),
        ("an empty extension", f"{origin}\n{size}\n{top}\n\n"),
        ("an extension behind an empty line", f"{origin}\n{size}\n{top}\n\nextension\n"),
        ("a control character", f"{origin}\n{size}\n{top}\nex\ttension\n"),
        ("a zero before the size", f"{origin}\n0{size}\n{top}\n"),
        ("another origin", f"{origin}x\n{size}\n{top}\n"),
        ("an origin below", f"{origin}/below\n{size}\n{top}\n"),
        ("no root", f"{origin}\n{size}\n"),
    ]:
        yield name, f"{head}\n\n{now}\n{good(now)}{lines[1]}"
    for number in range(count):
        changed = bytearray(text.encode())
        at = chance.randrange(len(changed))
        if chance.randrange(2):
            changed[at] = chance.choice(b"\n +/=AZaz09\r\xe2")
        else:
            del changed[at : at + chance.choice((1, 1, 2, 40))]
        yield f"random {number}", bytes(changed)


def checked(audit, root, number, proof, record, public):
    """Returns whether `audit check` takes the proof, and whether the second verifier does."""
    content = proof if isinstance(proof, bytes) else proof.encode()
    files = root / f"{number}.tlog-proof", root / f"{number}.json"
    for file, data in zip(files, (content, record)):
        file.write_bytes(data)
    ran = subprocess.run([audit, "check", *files, "--key", public], capture_output=True, text=True)
    if ran.returncode not in (0, 1, 3):
        return ran, None
    try:
        why = second.check_proof(content.decode(), record, second.verifier_key(public))
    except UnicodeDecodeError as error:
        why = error
    return ran.returncode == 0, why is None


def proofs(count):
    """Yields what is changed, the changed proof, its record and the host's key."""
    public = second.whole_bucket()[0]
    writer = second.Writer(STREAM)
    lines = [f'{{"record":{n}}}' for n in range(7)]
    one = writer.write(lines)
    key = second.sha(f"audit-object/v1\n{one['key']}\n0\n".encode(), second.sha(one["key"].encode()))
    salts = [second.sha(key, n.to_bytes(8, "big")) for n in range(7)]
    leaves = [second.sha(b"\0", salt, line.encode()) for salt, line in zip(salts, lines)]
    node = second.node
    # Of record 2 of 7: its sibling, the pair before, and the three behind.
    behind = node(node(leaves[4], leaves[5]), leaves[6])
    path = [leaves[3], node(leaves[0], leaves[1]), behind]
    text = second.checkpoint(writer.origin, 7, second.root(writer.frontier)).decode()

    def sign(text):
        data = second.key_id(writer.origin, 1, writer.public) + writer.key.sign(text.encode())
        return f"— {writer.origin} {second.b64(data)}\n"

    kind = second.sha(writer.host.encode(), b"\n\xffaudit-stream/v1")[:4]
    certificate = second.b64(kind + writer.public + writer.certificate)
    whole = "".join(
        f"{line}\n"
        for line in ("c2sp.org/tlog-proof@v1", f"extra {second.b64(salts[2])}", "index 2")
        + tuple(map(second.b64, path))
    )
    whole += f"\n{text}\n{sign(text)}— {writer.host} {certificate}\n"
    for name, proof in of_proof(whole, sign, random.Random("proof"), count):
        yield name, proof, lines[2].encode(), public
    yield "another record", whole, lines[3].encode(), public


def main():
    audit, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    found, differing = {}, 0
    changes, changed_proofs = list(cases(count)), list(proofs(count))
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor() as pool:
        root = pathlib.Path(directory)
        verdicts = [
            (name, pool.submit(judged, audit, root, number, *case))
            for number, (name, *case) in enumerate(changes)
        ] + [
            (f"proof: {name}", pool.submit(checked, audit, root, number, *case))
            for number, (name, *case) in enumerate(changed_proofs)
        ]
        for name, verdict in verdicts:
            ours, theirs = verdict.result()
            if ours != theirs:
                differing += 1
                print(f"{name}: audit found {ours}\nand the second verifier {theirs}")
                continue
            if isinstance(ours, bool):
                codes = "valid" if ours else "invalid"
            else:
                codes = " ".join(line["finding"] for line in ours) or "nothing"
            kind = name.split(":")[0], codes
            found[kind] = found.get(kind, 0) + 1
    for (kind, codes), number in sorted(found.items()):
        print(f"{kind}: {number} times {codes}")
    print(f"{len(verdicts) - differing} of {len(verdicts)} changes are judged alike")
    return differing


if __name__ == "__main__":
    sys.exit(main() and 1)
