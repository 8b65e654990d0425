"""Counts the bytes that DuckDB reads for some questions, from records and from files of `audit compact`.

    cargo build --release -p audit-cli --bin audit --example fill
    target/release/examples/fill file://$PWD/records 1000000 1
    target/release/audit compact records --to parquet
    python3 .ci/parquet_bytes.py records parquet     # needs duckdb and fsspec

Bytes are counted in the file system that DuckDB reads through. Both ways must give the same rows.
"""

import datetime
import glob
import os
import sys
import threading
import time

import duckdb
from fsspec.spec import AbstractFileSystem


LOCK = threading.Lock()


class Counted(AbstractFileSystem):
    protocol = "counted"
    cachable = False
    read = 0

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("counted://")

    def glob(self, path, **_):
        return sorted(glob.glob(self._strip_protocol(path)))

    def info(self, path, **_):
        path = self._strip_protocol(path)
        kind = "directory" if os.path.isdir(path) else "file"
        return {"name": path, "size": os.path.getsize(path), "type": kind}

    def modified(self, path):
        return datetime.datetime.fromtimestamp(os.path.getmtime(self._strip_protocol(path)), datetime.timezone.utc)

    def exists(self, path, **_):
        return os.path.exists(self._strip_protocol(path))

    def open(self, path, mode="rb", **_):
        return Handle(self._strip_protocol(path))


class Handle:
    """An open file. DuckDB's threads share it, so each thread has a position of its own."""

    closed = False

    def __init__(self, path):
        self.file = open(path, "rb", buffering=0)
        self.at, self.close = {}, self.file.close

    def seek(self, at, whence=0):
        begin = [0, self.tell(), os.fstat(self.file.fileno()).st_size][whence]
        self.at[threading.get_ident()] = begin + at
        return begin + at

    def tell(self):
        return self.at.get(threading.get_ident(), 0)

    def read(self, count=-1):
        at = self.tell()
        count = count if count >= 0 else os.fstat(self.file.fileno()).st_size - at
        found = os.pread(self.file.fileno(), count, at)
        self.seek(at + len(found))
        with LOCK:
            Counted.read += len(found)
        return found

    def seekable(self):
        return True

    def readable(self):
        return True


records, parquet = (f"counted://{os.path.abspath(path)}" for path in sys.argv[1:])
FIELDS = """{action: 'VARCHAR', document: 'VARCHAR', outcome: 'VARCHAR', "user": 'VARCHAR', client: 'STRUCT(ip VARCHAR)', "at": 'BIGINT'}"""
RECORDS = f"""(SELECT *, client.ip AS client_ip, make_timestamp_ms("at") AS time FROM read_json(
    '{records}/dt=*/hour=*/*.zst', format = 'newline_delimited', columns = {FIELDS}))"""
PARQUET = f"""(SELECT *, timezone('UTC', audit_time) AS time FROM read_parquet('{parquet}/dt=*/*.parquet'))"""
QUESTIONS = [
    ("how often who saw a document", """SELECT "user", count(*) FROM {} WHERE document = 'doc3' AND action = 'documents.view' GROUP BY ALL ORDER BY ALL"""),
    ("what one did, and when", """SELECT time, action, document, outcome FROM {} WHERE "user" = 'user7' ORDER BY ALL"""),
    ("who failed how often", """SELECT "user", count(*) FROM {} WHERE outcome <> 'shown' GROUP BY ALL ORDER BY ALL"""),
    ("how much each did", """SELECT "user", action, count(*) FROM {} GROUP BY ALL ORDER BY ALL"""),
    ("who changed how much", """SELECT "user", count(*) FROM {} WHERE action = 'documents.update' GROUP BY ALL ORDER BY ALL"""),
    ("from where one came", """SELECT client_ip, count(*) FROM {} WHERE "user" = 'user7' GROUP BY ALL ORDER BY ALL"""),
    ("who saw a document, when, from where", """SELECT time, "user", client_ip FROM {} WHERE document = 'doc3' AND outcome = 'shown' ORDER BY ALL"""),
]

print("| question | rows | bytes of `.zst` | of Parquet | times fewer | seconds | |")
print("|---|---|---|---|---|---|---|")
for what, question in QUESTIONS:
    answers = []
    for table in (RECORDS, PARQUET):
        database = duckdb.connect()
        database.register_filesystem(Counted())
        Counted.read, began = 0, time.monotonic()
        rows = database.execute(question.format(table)).fetchall()
        answers.append((rows, Counted.read, time.monotonic() - began))
    (rows, zst, slow), (same, few, fast) = answers
    assert rows == same and rows, what
    print(f"| {what} | {len(rows):,} | {zst:,} | {few:,} | {zst / few:.1f} | {slow:.2f} | {fast:.2f} |", flush=True)
