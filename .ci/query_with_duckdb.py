"""Sends requests to the service, and compares them with the results of the queries in docs/QUERYING.md.

The expected results come from the requests alone, not from the code that wrote the bucket.
"""

import glob
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import ask_three_ways
import chdb.session
import duckdb
import pandas
import polars
import pyarrow
import pyarrow.json
import sqlglot

root = sys.argv[1]
bucket = f"{root}/data/bucket"


def serve(extra_environment):
    """Starts a service. Returns its process and address."""
    environment = os.environ | {
        "LISTEN": "127.0.0.1:0",
        "OPERATORS_LISTEN": "none",
        "TRUSTED_PROXIES": "127.0.0.1",
        "DATA_DIR": f"{root}/data",
    } | extra_environment
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    process = subprocess.Popen([f"{target}/debug/audit-service"], stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.startswith("listening on "):
            return process, line.removeprefix("listening on ").strip()
    raise SystemExit("the service did not start")


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.stdout.read()
    assert process.wait() == 0, process.returncode


def request(url, user, document, change=None, agent="check"):
    data = None if change is None else json.dumps(change).encode()
    headers = {"X-User": user, "User-Agent": agent} | ({"Content-Type": "application/json"} if data else {})
    method = "GET" if data is None else "PUT"
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/documents/{document}", data, headers, method=method))
    except urllib.error.HTTPError as error:
        assert error.code in (404, 409), error


# User, action, document and outcome of each request, in order.
asked = []


def view(url, user, document, outcome):
    request(url, user, document, agent='a "quoted" agent')
    asked.append((user, "documents.view", document, outcome))


def update(url, user, document, outcome, **change):
    request(url, user, document, {"title": document, "text": "…"} | change)
    asked.append((user, "documents.update", document, outcome))


# Three openings write three streams: with each compression, and with and without a journal.
openings = [{}, {"AUDIT_COMPRESSION": "gzip"}, {"AUDIT_COMPRESSION": "none", "AUDIT_JOURNAL": "none"}]
for n, environment in enumerate(openings):
    process, url = serve(environment)
    update(url, "ada", "plan", "to be committed")
    update(url, "ada", f"notes{n}", "to be committed")
    for user in ("bob", "eve", "bob"):
        view(url, user, "plan", "shown")
    view(url, "eve", "secrets", "not found")
    update(url, "eve", "plan", f"the document is at revision {n + 1}, not at 77", expected_revision=77)
    view(url, "eve", f"notes{n}", "shown")
    stop(process)

# No query returns or fails on files that a killed process left unfinished.
objects = glob.glob(f"{bucket}/dt=*/hour=*/*.ndjson*")
assert objects
os.makedirs(f"{bucket}/_audit/unfinished", exist_ok=True)
for leftover in [f"{path}#7" for path in objects] + [f"{bucket}/_audit/unfinished/01J"]:
    with open(leftover, "wb") as file:
        file.write(b'{"user":"nobody","act')

text = open("docs/QUERYING.md").read()
blocks = re.findall(r"^```sql (\w+)(?: (\w+))?\n(.*?)^```", text, re.S | re.M)
queries = {(dialect, name): sql for dialect, name, sql in blocks if name}
assert len(queries) == len([name for _, name, _ in blocks if name]), "two blocks of one name"

database = duckdb.connect()
database.execute(queries["duckdb", "table"].replace("BUCKET_DIRECTORY", bucket))


# A record with names that differ only in case, in a bucket of its own.
clash = f"{root}/clash"
os.makedirs(f"{clash}/dt=2026-11-20/hour=09")
record = {"user": "bob", "User": "eve", "dt": "body's", "hour": "body's", "filename": "body's"}
with open(f"{clash}/dt=2026-11-20/hour=09/0000000000000000000000002D-000000000000.ndjson", "w") as file:
    file.write(json.dumps(record) + "\n")

# The same records as Parquet.
parquet = f"{root}/parquet"
target = os.environ.get("CARGO_TARGET_DIR", "target")
subprocess.run([f"{target}/debug/audit", "compact", bucket, "--to", parquet, "--today"], check=True)
database.execute(queries["duckdb", "parquet"].replace("PARQUET_DIRECTORY", parquet))
exported = f"{root}/exported.parquet"
with open(exported, "wb") as file:
    subprocess.run([f"{target}/debug/audit", "export", bucket, "--format", "parquet"], check=True, stdout=file)

clickhouse = chdb.session.Session()
clickhouse.query(queries["clickhouse", "table"].replace("BUCKET_DIRECTORY", bucket))


def clickhouse_rows(sql):
    result = clickhouse.query(sql.strip().rstrip(";").replace("BUCKET_DIRECTORY", bucket), "JSONCompact")
    return [tuple(row) for row in json.loads(str(result))["data"]]


def rows(sql):
    return database.execute(sql.replace("BUCKET_DIRECTORY", bucket)).fetchall()


assert rows("SELECT count(*), count(DISTINCT dt || '/' || hour) >= 1 FROM audit") == [(len(asked), True)]
days = [day for (day,) in rows("SELECT DISTINCT dt FROM audit ORDER BY dt")]
viewed = "documents.view"
expected = {
    "saw": [(user, "127.0.0.1", "shown") for user, action, document, outcome in asked
            if (action, document, outcome) == (viewed, "plan", "shown")],
    "did": [(action, document, outcome) for user, action, document, outcome in asked if user == "eve"],
    "failures": [asked_ for asked_ in asked if asked_[3] not in ("shown", "to be committed")],
}
assert [len(expected[name]) for name in ("saw", "did", "failures")] == [9, 12, 6]


lines = [line for (line,) in rows("SELECT json FROM read_ndjson_objects('BUCKET_DIRECTORY/dt=*/hour=*/*.ndjso*[ntz]')")]
for table in ("audit_parquet", f"read_parquet('{exported}')"):
    assert sorted(record for (record,) in rows(f"SELECT audit_record FROM {table}")) == sorted(lines), table
    print(f"{table}: {len(lines)} records, byte for byte")

# Libraries that know nothing of the layout find the same records, and nothing of the evidence.
objects = [path for path in objects if path.endswith((".zst", ".gz", ".ndjson"))]
of_library = {
    "pyarrow": lambda path: pyarrow.json.read_json(pyarrow.input_stream(path)).to_pylist(),
    "polars": lambda path: polars.read_ndjson(path).to_dicts(),
    "pandas": lambda path: pandas.read_json(path, lines=True, compression="infer").to_dict("records"),
}
for library, read in of_library.items():
    records = [record for path in objects for record in read(path)]
    members = ("user", "action", "document", "outcome")
    found = [tuple(record[member] for member in members) for record in records]
    assert sorted(found) == sorted(asked), (library, found)
    assert not any(name.startswith("_") or "$" in name for record in records for name in record), library
    print(f"{library}: {len(found)} records of {len(objects)} objects, as expected")


def check(dialect, name, found):
    name = name.removeprefix("parquet_")
    if name == "volume":
        # The records may span midnight.
        of_user = {user: sum(row[2] for row in found if row[1] == user) for user in ("ada", "bob", "eve")}
        assert of_user == {"ada": 6, "bob": 6, "eve": 12}, found
        assert {row[4] for row in found} == {1} and {str(row[0]) for row in found} == {str(day) for day in days}, found
    elif name == "place":
        assert len(found) == 3 and sum(records for _, records in found) == len(asked), found
    elif name == "json":
        updates = sorted((user, "127.0.0.1") for user, action, _, _ in asked if action == "documents.update")
        assert found == updates, found
    elif name == "rest":
        assert found == [], found
    elif name == "names":
        assert found == [("bob", "eve", "body's", "2026-11-20")], found
    else:
        assert [row[1:] for row in found] == expected[name], (dialect, name, found)
        assert all(str(row[0]) >= "2024" for row in found), found
    print(f"{dialect} {name}: {len(found)} rows, as expected")


of_engine = {"duckdb": rows, "clickhouse": clickhouse_rows}
for (dialect, name), sql in queries.items():
    if dialect in of_engine and name not in ("table", "parquet"):
        place = sql.replace("BUCKET_DIRECTORY", clash) if name == "names" else sql
        check(dialect, name, of_engine[dialect](place))

# For the other engines, dt and hour are text. Athena and Trino fold names to lower case, and DuckDB
# ignores their case.
database.execute("CREATE MACRO timestamp_millis(ms) AS make_timestamp_ms(ms)")  # Spark has it, DuckDB does not.
database.execute("CREATE VIEW typed AS SELECT * REPLACE (strftime(dt, '%Y-%m-%d') AS dt) FROM audit")
run = 0
for dialect, name, sql in blocks:
    if dialect in of_engine:
        continue
    if name in (None, "", "table", "parquet"):
        assert sqlglot.parse(sql, read=dialect), sql
        continue
    statement = sqlglot.parse_one(sql.strip().rstrip(";"), read=dialect)
    for table in statement.find_all(sqlglot.exp.Table):
        assert table.name == "audit"
        table.set("this", sqlglot.exp.to_identifier("typed"))
    check(dialect, name, database.execute(statement.sql(dialect="duckdb")).fetchall())
    run += 1
assert run == 7, run

# Only the partitions of a query are read.
plan = str(rows("EXPLAIN ANALYZE SELECT count(*) FROM audit WHERE dt < DATE '2020-01-01'"))
files = re.search(r"Total Files Read: (\d+)", plan)
assert files is None or files.group(1) == "0", plan
print("only the partitions of a query are read")

ask_three_ways.ask(bucket, database, f"{os.environ.get('CARGO_TARGET_DIR', 'target')}/debug/audit")
