"""A small hub on this machine: the addresses and headers that huggingface_hub asks for, files with ranges."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """repositories: name → folder of its files, None: gated. cut: files whose first answer breaks off half-way.

    log: `GET path` of every request, with the range that was asked for.
    """

    repositories: dict[str, Path | None]
    cut: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    address: str = ""

    def fetched(self) -> list[str]:
        """Files whose content was asked for."""
        return [
            found[3] for line in self.log if line.startswith("GET") and (found := FILE.search(line.split()[1]))
        ]


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """The hub answers while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_words: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path, _mark, _query = self.path.partition("?")
            hub.log.append(f"{self.command} {path} {self.headers.get('Range', '')}")
            found = INFO.fullmatch(path) or FILE.fullmatch(path)
            if found is None or found[1] not in hub.repositories:
                return self.refuse(404, "RepoNotFound")
            folder, revision = hub.repositories[found[1]], found[2]
            if folder is None:
                return self.refuse(403, "GatedRepo")
            if not folder.is_dir():
                return self.refuse(500, "")
            if revision not in (None, "main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            if found.re is INFO:
                return self.list(found[1], folder)
            file = folder / found[3]
            return self.give(file) if file.is_file() else self.refuse(404, "EntryNotFound")

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def list(self, name: str, folder: Path) -> None:
            files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            self.send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def give(self, file: Path) -> None:
            content = file.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked is None:
                return self.send(200, content, {**headers, "Accept-Ranges": "bytes"}, file.name)
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self.send(206, content[first : last + 1], headers, file.name)

        def send(self, status: int, content: bytes, headers: dict[str, str], name: str = "") -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if name in hub.cut:
                hub.cut.discard(name)
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            else:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
