#!/usr/bin/env python3
"""Makes vectors.json by an implementation of its own, straight from the documents.

Trees and proofs are the recursive definitions of RFC 6962, section 2.1; notes, cosignatures and
heads are put together by hand. Needs `pip install cryptography`.
"""

import base64
import hashlib
import json
import pathlib
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def b64(data):
    return base64.b64encode(data).decode()


def split(n):
    k = 1
    while k * 2 < n:
        k *= 2
    return k


CACHE = {}


def root(leaves, lo, hi):
    """MTH: the root over leaves[lo:hi]."""
    if lo == hi:
        return sha()
    if hi - lo == 1:
        return leaves[lo]
    if (lo, hi) not in CACHE:
        k = lo + split(hi - lo)
        CACHE[lo, hi] = sha(b"\1", root(leaves, lo, k), root(leaves, k, hi))
    return CACHE[lo, hi]


def path(leaves, m, lo, hi):
    """PATH: from leaf m of leaves[lo:hi] up."""
    if hi - lo == 1:
        return []
    k = lo + split(hi - lo)
    if m < k:
        return path(leaves, m, lo, k) + [root(leaves, k, hi)]
    return path(leaves, m, k, hi) + [root(leaves, lo, k)]


def subproof(leaves, m, lo, hi, whole):
    """SUBPROOF: that leaves[:m] are the beginning of leaves[:hi]."""
    if m == hi:
        return [] if whole else [root(leaves, lo, hi)]
    k = lo + split(hi - lo)
    if m <= k:
        return subproof(leaves, m, lo, k, whole) + [root(leaves, k, hi)]
    return subproof(leaves, m, k, hi, False) + [root(leaves, lo, k)]


def proof_digest(proofs):
    """One hash for many proofs: each as its base64 lines, with an empty line behind."""
    text = "".join("".join(b64(h) + "\n" for h in proof) + "\n" for proof in proofs)
    return b64(sha(text.encode()))


def key(name, kind, seed):
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    key_id = sha(name.encode(), b"\n", bytes([kind]), public)[:4]
    return {
        "name": name,
        "private": private,
        "public": public,
        "id": key_id,
        "verifier": f"{name}+{key_id.hex()}+{b64(bytes([kind]) + public)}",
        "signer": f"PRIVATE+KEY+{name}+{key_id.hex()}+{b64(bytes([kind]) + seed)}",
    }


def line(key, signature):
    return f"— {key['name']} {b64(key['id'] + signature)}\n"


def compact(leaves, n):
    """The roots of the fewest complete subtrees over leaves[:n]."""
    hashes, start = [], 0
    for level in reversed(range(64)):
        if n >> level & 1:
            hashes.append(root(leaves, start, start + (1 << level)))
            start += 1 << level
    return hashes


def main():
    leaves = [sha(b"\0", f"entry {i}".encode()) for i in range(300)]
    trees = []
    for n in range(301):
        tree = {"size": n, "root": b64(root(leaves, 0, n))}
        tree["inclusion"] = proof_digest([path(leaves, i, 0, n) for i in range(n)])
        tree["consistency"] = proof_digest(
            [subproof(leaves, m, 0, n, True) for m in range(1, n + 1)]
        )
        trees.append(tree)

    stream = "01M86YQH3BN92MTRKE2RS1CKJ5"
    host = key("example.com/api", 1, bytes([1]) * 32)
    witness = key("witness.example/w1", 4, bytes([4]) * 32)
    origin = f"example.com/api/{stream}"
    stream_key = key(origin, 1, bytes([2]) * 32)
    message = f"audit-stream/v1\n{origin}\n{b64(stream_key['public'])}\n".encode()
    certificate = host["private"].sign(message)

    # Objects of 1, 2, 5, 8, 13 and 100 records, one after another.
    objects, stream_leaves, first = [], [], 0
    for number, count in enumerate([1, 2, 5, 8, 13, 100]):
        object_key = f"dt=2026-11-24/hour=14/{stream}-{first:012}.ndjson.zst"
        stable, seed = max(first - 1, 0), bytes([number]) * 32
        k = sha(f"audit-object/v1\n{object_key}\n{stable}\n".encode(), seed)
        lines = [f'{{"record":{first + i}}}' for i in range(count)]
        before = compact(stream_leaves, first)
        salts = [sha(k, struct.pack(">Q", first + i)) for i in range(count)]
        stream_leaves += [sha(b"\0", s, text.encode()) for s, text in zip(salts, lines)]
        CACHE.clear()
        end = first + count
        text = f"{origin}\n{end}\n{b64(root(stream_leaves, 0, end))}\n".encode()
        signature = stream_key["private"].sign(text)
        note = text.decode() + "\n" + line(stream_key, signature)
        whole = "".join(text + "\n" for text in lines).encode()
        proofs = []
        for index in sorted({first, end - 1}):
            proof = "c2sp.org/tlog-proof@v1\n"
            proof += f"extra {b64(salts[index - first])}\nindex {index}\n"
            proof += "".join(b64(h) + "\n" for h in path(stream_leaves, index, 0, end))
            proofs.append(proof + "\n" + note)
        objects.append(
            {
                "key": object_key,
                "lines": lines,
                "metadata": {
                    "format": "2",
                    "lastsequence": str(end - 1),
                    "count": str(count),
                    "sha256": hashlib.sha256(whole).hexdigest(),
                    "stable": str(stable),
                    "seed": b64(seed),
                    "left": b64(b"".join(before)),
                    "root": b64(root(stream_leaves, 0, end)),
                    "sig": b64(signature),
                    "name": "example.com/api",
                    "streamkey": b64(stream_key["public"]),
                    "cert": b64(certificate),
                },
                "proofs": proofs,
            }
        )
        first = end

    time = 1764000000
    message = f"cosignature/v1\ntime {time}\n".encode() + text
    cosignature = struct.pack(">Q", time) + witness["private"].sign(message)
    vectors = {
        "trees": trees,
        "stream": stream,
        "host": {"verifier": host["verifier"], "signer": host["signer"]},
        "stream_key": {"verifier": stream_key["verifier"], "signer": stream_key["signer"]},
        "witness": {"verifier": witness["verifier"], "signer": witness["signer"]},
        "objects": objects,
        "cosigned": {
            "time": time,
            "note": text.decode() + "\n" + line(stream_key, signature) + line(witness, cosignature),
        },
    }
    file = pathlib.Path(__file__).with_name("vectors.json")
    file.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


main()
