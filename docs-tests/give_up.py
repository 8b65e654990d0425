#!/usr/bin/env python3
"""Creates a journal whose last group found no space and was written again.

    give_up.py DIRECTORY (whole | torn) (behind | alone)

The abandoned group is the last one of a segment or its only one, and complete or torn. The records
of the journal stay the same.
"""

import pathlib
import sys

import second_reader
from second_reader import BLOCK, crc32c

root, how, where = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]


def sealed(text, salt):
    return text + f"{crc32c(text, salt):08x}\n".encode()


def segment(ordinal, salt, group):
    """Writes a segment that contains only this group, copied from another one."""
    batches = group[159:]
    place, batch_sum = 0, salt
    while place < len(batches):
        batch_sum = crc32c(batches[place : place + 80], batch_sum)
        place += 80 + int(batches[place + 58 : place + 66], 16)
    text = group[: group.index(b" sum ")] + f" sum {batch_sum:08x} ".encode()
    body = sealed(text, salt) + batches
    size = BLOCK + (len(body) + BLOCK - 1) // BLOCK * BLOCK
    head = f"audit journal 1 segment {ordinal:08x} salt {salt:08x} bytes {size:016x} ".encode()
    data = bytearray(size)
    data[: len(head) + 9] = sealed(head, 0)
    data[BLOCK : BLOCK + len(body)] = body
    return data


def write(ordinal, data):
    (root / f"{ordinal:08x}.journal").write_bytes(data)


paths = sorted(root.glob("*.journal"))
last = [path for path in paths if second_reader.read_segment(path, int(path.stem, 16))][-1]
for path in paths[paths.index(last) + 1 :]:
    path.unlink()
ordinal, data = int(last.stem, 16), bytearray(last.read_bytes())
at = int(second_reader.read_segment(last, ordinal)[-1]["where"].rsplit(" ", 1)[1])
end = at + 159 + int(data[at:][: BLOCK].split(b" bytes ")[1][:8], 16)
group = bytes(data[at:end])
if where == "alone":
    data[at:end] = bytes(end - at)
    write(ordinal, data)
    ordinal, data, at = ordinal + 1, segment(ordinal + 1, 0x1234, group), BLOCK
if how == "torn":
    # Only the beginning of the group reached the disk.
    data[at + 300 : at + len(group)] = bytes(len(group) - 300)
write(ordinal, data)
write(ordinal + 1, segment(ordinal + 1, 0x5678, group))
