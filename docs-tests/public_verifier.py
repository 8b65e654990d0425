"""Verifies what this project signs and proves with a public package, `aics-tlog` of PyPI, which
knows nothing of it: trees, inclusion and consistency, notes, checkpoints, cosignatures.

    public_verifier.py VECTORS [PROOF RECORD]…

VECTORS is audit-evidence/tests/vectors/vectors.json, which the crate's tests compare with what the
crate makes. A PROOF of `audit prove` is followed by its RECORD.
"""

import base64
import hashlib
import json
import sys

from aics_tlog import (
    MerkleTree, VKey, format_vkey, key_hash, parse_checkpoint, parse_note, parse_vkey,
    verify_checkpoint, verify_consistency, verify_leaf_inclusion,
)


def b64(data):
    return base64.b64encode(data).decode()


def unb64(text):
    return base64.b64decode(text, validate=True)


def digest(proofs):
    text = "".join("".join(b64(h) + "\n" for h in proof) + "\n" for proof in proofs)
    return b64(hashlib.sha256(text.encode()).digest())


def check_trees(trees):
    """The package makes the same proofs, and accepts them."""
    tree, roots = MerkleTree(), [unb64(tree["root"]) for tree in trees]
    entry = lambda i: f"entry {i}".encode()
    for vector in trees:
        size = vector["size"]
        if size:
            tree.append(entry(size - 1))
        assert tree.root() == roots[size], size
        inclusion = [tree.inclusion_proof(index) for index in range(size)]
        consistency = [tree.consistency_proof(old) for old in range(1, size + 1)]
        assert digest(inclusion) == vector["inclusion"], size
        assert digest(consistency) == vector["consistency"], size
        for index, path in enumerate(inclusion):
            assert verify_leaf_inclusion(entry(index), index, size, path, roots[size])
        for old, path in enumerate(consistency, 1):
            assert verify_consistency(old, size, roots[old], roots[size], path)
    return len(trees)


def is_proven(text, record, key):
    """Whether a `.tlog-proof` proves a record to whoever trusts the key of its stream."""
    try:
        head, _, signed = text.partition("\n\n")
        header, extra, index, *path = head.split("\n")
        if header != "c2sp.org/tlog-proof@v1":
            return False
        note = parse_note(signed)
        found = verify_checkpoint(note, key)
        point = parse_checkpoint(note.text)
        leaf = unb64(extra.removeprefix("extra ")) + record
        path = [unb64(line) for line in path]
        index = int(index.removeprefix("index "))
        return found.ok and verify_leaf_inclusion(leaf, index, point.size, path, point.root)
    except ValueError:
        return False


def altered(text, record):
    """Changes to a proof, one in each line up to the signatures, and one to its record."""
    lines = text.split("\n")
    end = lines.index("")
    changed = {at: f"{word} {other(value)}".strip() for at in range(1, end + 4) if at != end
               for word, _, value in [lines[at].rpartition(" ")]}
    for at, line in changed.items():
        yield "\n".join([*lines[:at], line, *lines[at + 1:]]), record
    for at in range(3, end):
        yield "\n".join([*lines[:at], *lines[at + 1:]]), record
    yield text, record + b" "


def other(value):
    if value.isdigit():
        return str(int(value) + 1)
    return ("B" if value[0] == "A" else "A") + value[1:]


def check_proof(text, record, key):
    """Returns how many altered ones were refused."""
    assert is_proven(text, record, key), text
    changes = list(altered(text, record))
    for changed, changed_record in changes:
        assert not is_proven(changed, changed_record, key), changed
    return len(changes)


def key_in(text):
    """The key of the stream as a proof tells it. That the host certified it is not the package's to
    check."""
    note = parse_note(text.partition("\n\n")[2])
    origin = parse_checkpoint(note.text).origin
    certified = next(line for line in note.signatures if len(line.signature) == 96)
    public = certified.signature[:32]
    return parse_vkey(format_vkey(VKey(origin, key_hash(origin, 1, public), 1, public)))


def main():
    vectors = json.load(open(sys.argv[1]))
    print(check_trees(vectors["trees"]), "trees, with all their proofs")
    stream, witness = (parse_vkey(vectors[name]["verifier"]) for name in ("stream_key", "witness"))

    cosigned = vectors["cosigned"]
    for note, is_good in [
        (cosigned["note"], True),
        (cosigned["note"].replace("\n129\n", "\n128\n"), False),
        ("\n".join(cosigned["note"].split("\n")[:-2]) + "\n", False),
    ]:
        found = verify_checkpoint(parse_note(note), stream, [witness], 1)
        assert found.ok == is_good, (note, found)

    proofs = refused = 0
    for vector in vectors["objects"]:
        first = int(vector["key"].rpartition("-")[2].partition(".")[0])
        for text in vector["proofs"]:
            index = int(text.split("\n")[2].removeprefix("index "))
            record = vector["lines"][index - first].encode()
            refused += check_proof(text, record, stream)
            proofs += 1
    for proof, record in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        text = open(proof).read()
        record = open(record, "rb").read().removesuffix(b"\n")
        refused += check_proof(text, record, key_in(text))
        proofs += 1
    print(f"a cosigned checkpoint, {proofs} proofs; {refused} altered ones are refused")


main()
