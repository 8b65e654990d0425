"""Asks an auditor's questions with the command, the page and DuckDB, and compares the records.

Called by query_with_duckdb.py, with a bucket that the service wrote.
"""

import http.cookiejar
import json
import subprocess
import urllib.parse
import urllib.request

# A question, its conditions for the command and the page, and its condition on `json` for DuckDB.
QUESTIONS = [
    ("who saw the plan", ["/document=plan", "/action=documents.view", "/outcome=shown"],
     "json->>'$.document' = 'plan' AND json->>'$.action' = 'documents.view' AND json->>'$.outcome' = 'shown'"),
    ("what eve did", ["/user=eve"], "json->>'$.user' = 'eve'"),
    ("what failed", ["/outcome!=shown", "/outcome!=to be committed"],
     "json->>'$.outcome' NOT IN ('shown', 'to be committed')"),
    ("who changed what", ["/action=documents.update"], "json->>'$.action' = 'documents.update'"),
    ("what came from this machine", ["/client/ip~127.0."], "contains(json->>'$.client.ip', '127.0.')"),
    ("what ada and bob did", ["/user in ada,bob"], "json->>'$.user' IN ('ada', 'bob')"),
    ("what was not about the plan", ["/document!=plan"], "json->>'$.document' != 'plan'"),
    ("what is at revision 1 or later", ["/revision>=1"], "CAST(json->>'$.revision' AS BIGINT) >= 1"),
    ("what has a request id", ["/action~documents", "/client/requestId"], "json_exists(json, '$.client.requestId')"),
]
TEXT = "secrets"


def ask(bucket, database, audit="target/debug/audit"):
    def normal(lines):
        return sorted(json.dumps(json.loads(line), sort_keys=True) for line in lines)

    def command(*arguments):
        return subprocess.run([audit, *arguments], check=True, capture_output=True, text=True)

    page = subprocess.Popen([audit, "serve", bucket], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        first = page.stdout.readline().removeprefix("the page is at ").strip()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        browser.open(first).read()
        origin = first.split("/?")[0]

        def desk(path, **query):
            with browser.open(f"{origin}{path}?{urllib.parse.urlencode(query, doseq=True)}") as answer:
                return answer.read().decode().splitlines()

        objects = f"read_ndjson_objects('{bucket}/dt=*/hour=*/*.ndjso*[ntz]')"

        def duckdb(condition):
            return [line for (line,) in database.execute(f"SELECT json FROM {objects} WHERE {condition}").fetchall()]

        for what, conditions, sql in QUESTIONS:
            first, *others = conditions
            found = command("search", first, bucket, *(word for other in others for word in ("--where", other)))
            rows = normal(found.stdout.splitlines())
            assert rows and found.stderr.endswith(f" {len(rows)} match\n"), (what, found.stderr)
            assert normal(desk("/api/export", where=conditions)) == rows, what
            assert normal(duckdb(sql)) == rows, what
            print(f"three ways, {what}: {len(rows)} records")
        rows = normal(command("search", TEXT, bucket).stdout.splitlines())
        assert rows and normal(desk("/api/export", text=TEXT)) == rows
        assert normal(duckdb(f"contains(CAST(json AS VARCHAR), '{TEXT}')")) == rows
        print(f"three ways, what contains {TEXT}: {len(rows)} records")

        groups = command("stats", bucket, "--by", "/user,/action", "--json").stdout.splitlines()
        groups = sorted((group["/user"], group["/action"], group["records"], group["addresses"])
                        for group in map(json.loads, groups))
        grouped = database.execute(
            f"SELECT json->>'$.user', json->>'$.action', count(*), count(DISTINCT json->>'$.client.ip') FROM {objects} GROUP BY ALL"
        ).fetchall()
        assert groups == sorted(grouped), (groups, grouped)
        counted = [json.loads(line) for line in desk("/api/scan", facet=["/user"])]
        counted = [line for line in counted if line["kind"] == "counts"][-1]["facets"][0]["values"]
        of_user = {}
        for user, _, records, _ in groups:
            of_user[user] = of_user.get(user, 0) + records
        assert {value["shown"]: value["count"] for value in counted} == of_user, counted
        print(f"three ways, how much each user did: {len(groups)} groups")
    finally:
        page.kill()
        page.wait()
