"""Runs the unpacked image of the web service under runc, kills and restarts it, and counts the records in the bucket.

Arguments: the path of runc, and a directory with the bundle (`bundle`) and the volume (`volume`).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

runc, root = sys.argv[1], Path(sys.argv[2])
bundle, volume = root / "bundle", root / "volume"
USER = 65532
CHANGES = 25


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


clients, operators = free_port(), free_port()
config = json.loads((bundle / "config.json").read_text())
process = config["process"]
assert (process["user"]["uid"], process["noNewPrivileges"]) == (USER, True), process
assert process["args"][0] == "/audit-service", process
process["args"] = ["/audit-service", "--listen", f"127.0.0.1:{clients}", "--operators-listen", f"127.0.0.1:{operators}"]
process["env"] += ["AUDIT_COMPRESSION=none", "AUDIT_EVIDENCE=off", "AUDIT_CUT_AFTER_MS=50", "TRUSTED_PROXIES=127.0.0.1"]
process["terminal"] = False
process["capabilities"] = {}
config["root"]["readonly"] = True
# All namespaces but the network's, so that the service can be reached.
config["linux"]["namespaces"] = [kind for kind in config["linux"]["namespaces"] if kind["type"] not in ("network", "user")]
config["linux"]["resources"] = {}
config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] in ("/proc", "/dev")]
config["mounts"].append({"destination": "/data", "type": "bind", "source": str(volume), "options": ["bind", "rw", "nosuid", "nodev", "noexec"]})
(bundle / "config.json").write_text(json.dumps(config))
os.chown(volume, USER, USER)
state = root / "state"


class Container:
    """A container in the foreground."""

    def __init__(self, name):
        self.name, began = name, time.monotonic()
        self.running = subprocess.Popen([runc, "--root", state, "run", "--bundle", bundle, name], stdout=subprocess.PIPE, text=True)
        for line in self.running.stdout:
            if line.startswith("listening on "):
                break
        else:
            sys.exit(f"{name} did not start")
        self.start_seconds = time.monotonic() - began
        # It can write to its volume only.
        self.pid = json.loads(subprocess.check_output([runc, "--root", state, "state", name]))["pid"]
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if ":\t" in line)
        assert status["Uid"].split()[1] == str(USER) and int(status["CapEff"], 16) == 0, status
        options = {mount.split()[4]: mount.split()[5] for mount in Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()}
        assert options["/"].startswith("ro") and options["/data"].startswith("rw"), options

    def signal(self, number):
        os.kill(self.pid, number)
        code = self.running.wait()
        subprocess.run([runc, "--root", state, "delete", "--force", self.name], check=True, stderr=subprocess.DEVNULL)
        return code


def change(writer, n):
    """Changes a document. Returns whether the change was acknowledged."""
    body = json.dumps({"title": f"{writer}-{n}", "text": "text"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{clients}/documents/w{writer}-{n}", body, {"Content-Type": "application/json", "X-User": "ada"}, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status == 200
    except OSError:
        return False


acknowledged = []
container = Container("audit-first")
first_start = container.start_seconds
ready = urllib.request.urlopen(f"http://127.0.0.1:{operators}/readyz", timeout=30)
assert ready.status == 200
for n in range(CHANGES):
    assert change(0, n)
    acknowledged.append(f"w0-{n}")
# The journal may hold records that are not in the bucket yet.
assert container.signal(signal.SIGKILL) == 137
container = Container("audit-second")
for n in range(CHANGES):
    assert change(1, n)
    acknowledged.append(f"w1-{n}")
code = container.signal(signal.SIGTERM)
assert code == 0, code
found = [json.loads(line)["document"] for file in volume.glob("bucket/dt=*/hour=*/*.ndjson") for line in file.read_text().splitlines()]
assert sorted(found) == sorted(acknowledged), (set(acknowledged) ^ set(found), len(found))
size = sum(file.stat().st_size for file in (bundle / "rootfs").rglob("*") if file.is_file() and not file.is_symlink())
print(f"runc: read-only root, user {USER}, no capabilities; started in {first_start * 1000:.0f} ms, {size / 1e6:.1f} MB unpacked")
print(f"killed and started again: {len(acknowledged)} acknowledged changes, {len(found)} records in the bucket")
