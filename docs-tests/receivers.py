"""Third-party receivers verify the signatures of log streams.

Usage: receivers.py AUDIT. One receiver is in Python and verifies with the package standardwebhooks,
the other is receiver.mjs. `audit log-stream test` sends to both: signed with the right secret, with
the old one of two, and with another one, which they must refuse. deliveries.py verifies requests
that a journal's delivery made.
"""

import base64
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

from standardwebhooks import Webhook, WebhookVerificationError

NODE = pathlib.Path(__file__).with_name("receiver.mjs")


def receive_with(webhook):
    """A receiver in this process. Returns its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                webhook.verify(body, dict(self.headers.items()))
                status = 200
            except WebhookVerificationError:
                status = 401
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def main(audit):
    def secret():
        return "whsec_" + base64.b64encode(os.urandom(32)).decode()

    old, new, other = secret(), secret(), secret()
    node = subprocess.Popen(
        ["node", NODE],
        env={**os.environ, "SECRET": new},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        in_python = {
            "new": receive_with(Webhook(new)),
            "old": receive_with(Webhook(old)),
        }
        in_node = int(node.stdout.readline())
        # The receiver, the host's secrets, and whether the receiver must accept.
        cases = [
            (in_python["new"], [new], True),
            (in_python["new"], [new, old], True),
            (in_python["old"], [new, old], True),
            (in_python["old"], [new], False),
            (in_python["new"], [other], False),
            (in_node, [new], True),
            # Convex's header contains a single signature, made with the first secret.
            (in_node, [new, old], True),
            (in_node, [old, new], False),
        ]
        for number, (port, secrets, accepts) in enumerate(cases):
            answer = send(audit, port, secrets)
            if answer["accepted"] != accepts:
                sys.exit(f"case {number}: expected accepted={accepts}, got {answer}")
    finally:
        node.kill()
        node.wait()
    print(f"{len(cases)} cases: receivers in Python and Node agree on each signature")


def send(audit, port, secrets):
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory, "log-streams.toml")
        names = [f"SECRET_{number}" for number in range(len(secrets))]
        file.write_text(
            "[[log_stream]]\n"
            f'url = "http://127.0.0.1:{port}/hook"\n'
            f"secrets = {json.dumps(['env:' + name for name in names])}\n"
            "allow_http = true\nallow_private_addresses = true\n"
        )
        ran = subprocess.run(
            [audit, "log-stream", "test", "--json", str(file)],
            env={**os.environ, **dict(zip(names, secrets))},
            capture_output=True,
            text=True,
        )
        if ran.returncode not in (0, 1):
            sys.exit(ran.stderr)
        return json.loads(ran.stdout)


main(sys.argv[1])
