#!/usr/bin/env python3
"""Tests the census on repositories made here, with npm on a registry made here: no network is used.

    functions/census/test.py HOST

HOST is the example `census` of the host, built.
"""

import base64
import hashlib
import http.server
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent

# The packages on npm, by name and version. `outer` needs another version of `inner` than the app
# has, so npm installs that one inside of it.
PUBLISHED = {
    ("inner", "1.0.0"): ({}, "export const version = 'inner 1';"),
    ("inner", "2.0.0"): ({}, "export const version = 'inner 2';"),
    ("outer", "1.0.0"): ({"inner": "2.0.0"}, "export { version } from 'inner';"),
    ("hoisted", "1.0.0"): ({}, "export const version = 'hoisted 1';"),
    ("hoisted", "2.0.0"): ({}, "export const version = 'hoisted 2';"),
}

SERVER = 'import { query } from "./_generated/server";\n'
SCHEMA = """import { defineSchema, defineTable } from "convex/server";
import { v } from "convex/values";
export default defineSchema({ notes: defineTable({ text: v.string() }) });
"""

# Functions that only run if the packages are the right ones.
NEEDS_PACKAGES = """import { version } from "inner";
import { version as nested } from "outer";
export const versions = query({ handler: async () => {
  const found = `${version}, ${nested}`;
  if (found !== "inner 1, inner 2") throw new TypeError(found);
} });
"""

REPOSITORIES = {
    # An app with functions that run, one that its author lets fail, and one that is broken.
    "failing": {
        "package.json": {"name": "failing"},
        "convex/schema.ts": SCHEMA,
        "convex/notes.ts": """import { v } from "convex/values";
import { internalMutation, mutation } from "./_generated/server";
export const remove = mutation({ args: { id: v.id("notes") }, handler: (ctx, { id }) => ctx.db.delete(id) });
export const edit = internalMutation({
  args: { id: v.id("notes"), text: v.string() },
  handler: (ctx, { id, text }) => ctx.db.patch(id, { text }),
});
""",
        "convex/some.ts": SERVER + """
export const denied = query({ handler: () => { throw new Error("you may not"); } });
export const broken = query({ handler: (ctx, { missing }: any) => missing.member });
""",
    },
    # An app in a package of a repository. It imports a second package, which imports a dependency
    # that only a third one names.
    "nested": {
        "package.json": {"name": "nested", "workspaces": ["packages/*"]},
        "packages/other/package.json": {"name": "@nested/other", "dependencies": {"hoisted": "1.0.0"}},
        "packages/backend/package.json": {
            "name": "@nested/backend",
            "dependencies": {"@nested/shared": "workspace:*", "inner": "1.0.0", "outer": "1.0.0"},
        },
        "packages/backend/convex/schema.ts": SCHEMA,
        "packages/backend/convex/packages.ts": SERVER + NEEDS_PACKAGES + """
import { shared } from "@nested/shared";
export const ofRepository = query({ handler: async () => {
  if (shared !== "hoisted 1") throw new TypeError(shared);
} });
""",
        "packages/shared/package.json": {"name": "@nested/shared", "exports": "./index.ts"},
        "packages/shared/index.ts": 'import { version } from "hoisted";\nexport const shared: string = version;\n',
    },
    # An app that does not load, in a package whose directory is called `convex` too.
    "lacking": {
        "package.json": {"name": "lacking"},
        "convex/package.json": {"name": "@lacking/convex"},
        "convex/tsconfig.json": "{}",
        "convex/vitest.config.ts": "export default {};\n",
        "convex/convex/schema.ts": SCHEMA,
        "convex/convex/some.ts": SERVER + 'import "../generated";\n',
    },
}

ROWS = {
    "failing/convex": ("yes", "3 of 4", "`some:broken`: Uncaught TypeError: cannot read property 'member' of undefined"),
    "nested/packages/backend/convex": ("yes", "2 of 2", ""),
    "lacking/convex/convex": ("no", "–", 'convex/some.ts: "../generated" is imported, and there is no such file'),
}


def tarball(name, version):
    dependencies, text = PUBLISHED[name, version]
    manifest = {"name": name, "version": version, "type": "module", "exports": "./index.js", "dependencies": dependencies}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for file, content in (("package.json", json.dumps(manifest)), ("index.js", text)):
            entry = tarfile.TarInfo(f"package/{file}")
            entry.size = len(content.encode())
            archive.addfile(entry, io.BytesIO(content.encode()))
    return manifest, packed.getvalue()


class Registry(http.server.BaseHTTPRequestHandler):
    """What npm asks a registry for."""

    tarballs = {key: tarball(*key) for key in PUBLISHED}

    def do_GET(self):
        name, _, version = self.path.strip("/").partition("/")
        if (name, version) in self.tarballs:
            return self.send(200, self.tarballs[name, version][1])
        versions = {of: self.described(*key) for key in PUBLISHED for (package, of) in [key] if package == name}
        if not versions:
            return self.send(404, b"{}")
        return self.send(200, json.dumps({"name": name, "dist-tags": {"latest": max(versions)}, "versions": versions}).encode())

    def described(self, name, version):
        manifest, packed = self.tarballs[name, version]
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
        address, port = self.server.server_address
        return {**manifest, "dist": {"tarball": f"http://{address}:{port}/{name}/{version}", "integrity": integrity}}

    def send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if body[:1] != b"{" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def write(directory, files):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def rows_in(report):
    """Returns the cells of the first table of a report by app."""
    lines = [line for line in report.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    return {name: tuple(cells) for name, *cells in ([cell.strip() for cell in line[1:-1].split(" |")] for line in lines)}


def main():
    host = pathlib.Path(sys.argv[1]).resolve()
    registry = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=registry.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="census-test-") as place:
        place = pathlib.Path(place)
        settings = {
            "npm_config_registry": "http://{}:{}/".format(*registry.server_address),
            "npm_config_cache": str(place / "cache"),
            "npm_config_userconfig": str(place / "npmrc"),
            "npm_config_update_notifier": "false",
        }
        for name, files in REPOSITORIES.items():
            write(place / name, files)
        report = place / "report.md"

        def census(*names):
            command = [HERE / "census", "--host", host, "--work", place / "work", "--report", report, *(place / name for name in names)]
            ran = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stderr
            return ran.stdout

        # Rows of apps that are not tried again stay, and so does what was written by hand.
        census("failing")
        by_hand = "\n## Convex's own graders\n\nAll pass.\n"
        report.write_text(report.read_text() + by_hand)
        said = census("nested", "lacking")
        assert "1 of 2 apps load (50.0 %); 2 of their 2 functions run." in said, said
        found = rows_in(report.read_text())
        assert found.keys() == ROWS.keys(), found
        for app, (loads, count, failure) in ROWS.items():
            assert found[app][:2] == (loads, count), (app, found[app])
            assert found[app][2].startswith(failure) and bool(found[app][2]) == bool(failure), (app, found[app])
        assert report.read_text().endswith(f" |\n{by_hand}"), report.read_text()
        text = " ".join(report.read_text().split())
        assert "on 3 public repositories" in text and "2 of 3 apps load (66.6 %); 5 of their 6 functions run." in text, text
        # The census tries what an author wrote, and takes its own module away again.
        for name, files in REPOSITORIES.items():
            for file, content in files.items():
                assert (place / name / file).read_text() == (content if isinstance(content, str) else json.dumps(content)), file
            assert not list((place / name).rglob("census_seed.js")), name
    print(f"the census: {len(ROWS)} apps as expected")


if __name__ == "__main__":
    main()
