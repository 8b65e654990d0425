"""Receives traces of the web service with a third-party receiver, and checks the trace of one change.

Arguments: the service, and optionally the file of the picture in the documents, to renew it.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

MARKER = "hunter2-marker"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# The spans from the request to the bucket, each a child of the one before.
CHAIN = ["PUT /documents/{id}", "mutation", "attempt", "persist", "deliver", "put"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def change(program, collector, proxies):
    """Starts a service, changes a document, and returns the record of the change."""
    with tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {
            "LISTEN": "127.0.0.1:0",
            "OPERATORS_LISTEN": "none",
            "DATA_DIR": directory,
            "AUDIT_JOURNAL": "none",
            "AUDIT_COMPRESSION": "none",
            "AUDIT_EVIDENCE": "off",
            "TRUSTED_PROXIES": proxies,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{collector}/v1/traces",
        }
        service = subprocess.Popen([program], env=environment, stdout=subprocess.PIPE, text=True)
        url = next(line.split(" on ")[1].strip() for line in service.stdout if line.startswith("listening on "))
        headers = {
            "Content-Type": "application/json",
            "X-User": MARKER,
            "X-Request-Id": "request-1",
            "X-Forwarded-For": "192.0.2.7",
            "User-Agent": MARKER,
            "traceparent": f"00-{TRACE}-{PARENT}-01",
        }
        body = json.dumps({"title": MARKER, "text": MARKER}).encode()
        request = urllib.request.Request(f"{url}/documents/{MARKER}", body, headers, method="PUT")
        assert urllib.request.urlopen(request, timeout=60).status == 200
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=60) == 0
        (line,) = [line for file in Path(directory).glob("bucket/dt=*/hour=*/*.ndjson") for line in file.read_text().splitlines()]
        return json.loads(line)


async def received(tap, count):
    spans = []
    async with asyncio.timeout(60):
        async for span in tap.stream_traces():
            spans.append(span)
            if len(spans) == count:
                return spans


def attributes(span):
    return {attribute.key: attribute.value for attribute in span.attributes}


def check(spans, record, is_trusted):
    named = {span.name: span for span in spans}
    assert sorted(named) == sorted(CHAIN), sorted(named)
    parent, trace = None, named[CHAIN[0]].trace_id
    assert (trace.hex() == TRACE) == is_trusted, "only a trusted proxy names the trace"
    assert named[CHAIN[0]].parent_span_id.hex() == (PARENT if is_trusted else "")
    for name in CHAIN:
        span = named[name]
        assert span.trace_id == trace and (parent is None or span.parent_span_id == parent), name
        parent = span.span_id
        assert MARKER.encode() not in span.SerializeToString(), f"{name} holds what a caller sent"
    request_id = record["client"]["requestId"]
    assert (request_id == "request-1") == is_trusted
    for name in ("PUT /documents/{id}", "mutation"):
        assert attributes(named[name])["request_id"].string_value == request_id, name
    assert attributes(named["attempt"])["outcome"].string_value == "committed"
    stream = attributes(named["persist"])["stream"].string_value
    assert stream in attributes(named["put"])["key"].string_value
    return named


def picture(named):
    """Draws the spans of a trace over time as SVG."""
    begin = min(span.start_time_unix_nano for span in named.values())
    length = max(span.end_time_unix_nano for span in named.values()) - begin
    width, left, row = 900, 190, 28
    rows = []
    for n, name in enumerate(CHAIN):
        span, y = named[name], 34 + n * row
        x = left + (span.start_time_unix_nano - begin) / length * (width - left - 90)
        wide = max(2, (span.end_time_unix_nano - span.start_time_unix_nano) / length * (width - left - 90))
        ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        rows.append(
            f'<text x="{12 + n * 10}" y="{y + 14}">{name}</text><rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="18" rx="3"/>'
            f'<text x="{x + wide + 6:.1f}" y="{y + 14}" class="ms">{ms:.2f} ms</text>'
        )
    height = 44 + len(CHAIN) * row
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="13" role="img">'
        "<title>The trace of one change, directly to a bucket in a directory</title>"
        "<style>svg{background:#fff;color:#222}text{fill:#222}rect{fill:#3b6ea5}.ms{fill:#555}</style>"
        f'<text x="12" y="20" class="ms">trace {named[CHAIN[0]].trace_id.hex()}</text>{"".join(rows)}</svg>\n'
    )


async def main(program, file=None):
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as tap:
        for proxies in ("127.0.0.1", ""):
            # Before anything is sent: it hands out what arrives from then on.
            receiving = asyncio.create_task(received(tap, len(CHAIN)))
            await asyncio.sleep(0)
            record = await asyncio.to_thread(change, program, port, proxies)
            named = check(await receiving, record, bool(proxies))
            if file and proxies:
                Path(file).write_text(picture(named))
    # A collector that is away delays no answer and, for two seconds at most, the end.
    assert (await asyncio.to_thread(change, program, free_port(), ""))["document"] == MARKER
    print(f"oteltap received the trace of a change: {' > '.join(CHAIN)}")


asyncio.run(main(*sys.argv[1:]))
