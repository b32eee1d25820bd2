"""What may be sent to `serve`: damaged pictures, odd names, calls that are none, uploads that break off."""

from __future__ import annotations

import ctypes
import json
import multiprocessing.util
import random
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.hostile.bench import Bench, difference
from tests.hostile.harness import Case, Outcome, Trial
from tests.hostile.pictures import DAMAGES, FORMATS, whole
from tests.serving import Served, served, wait_for

KIND = "uploads"
PLACES = 6  # where each damage is done to each format
NAMES = {
    "up": "../../up.png",
    "absolute": "/etc/passwd.png",
    "backslashes": "..\\..\\up.png",
    "long": "x" * 300 + ".png",
    "longest": "x" * 5000 + ".png",
    "wide": "🦊" * 90 + ".png",
    "dots": "..",
    "dot": ".hidden.png",
    "nothing": "",
    "space": " .png",
    "newline": "a\nb.png",
    "escape": "a\x1b[31mb.png",
    "quotes": "a\"b'c.png",
    "markup": "<img src=x onerror=alert(1)>.png",
    "right to left": "a\u202egnp.exe",
    "device": "CON.png",
    "no suffix": "picture",
    "executable": "picture.exe",
    "percent": "%2e%2e%2f%00.png",
    "format": "{0}%s%n.png",
    "own temporary": ".passsionsr-0-1-picture.png",
    "wrong suffix": "picture.jpg",
    "vector": "picture.svg",
}
FILE = {"_type": "gradio.FileData"}
PAYLOADS: dict[str, Any] = {
    "nothing": None,
    "text": "picture.png",
    "number": 7,
    "no files": [],
    "empty file": [{}],
    "server's file": [{"path": "/etc/passwd", "meta": FILE}],
    "own folder": [{"path": ".", "meta": FILE}],
    "up": [{"path": "../../../etc/passwd", "meta": FILE}],
    "address": [{"path": "http://127.0.0.1:9/a.png", "meta": FILE}],
    "address beside": [{"path": "a.png", "url": "http://127.0.0.1:9/a.png", "meta": FILE}],
    "file address": [{"path": "file:///etc/passwd", "meta": FILE}],
    "NUL": [{"path": "a\x00.png", "meta": FILE}],
    "number as path": [{"path": 5, "meta": FILE}],
    "nested": [[[{"path": "a", "meta": FILE}]]],
    "stream": [{"path": "a.png", "is_stream": True, "meta": FILE}],
    "many": [{"path": "a.png", "meta": FILE}] * 2000,
}
OPTIONS: dict[str, tuple[int, Any]] = {
    "engines unknown": (1, "other"),
    "engines a path": (1, "/etc"),
    "engines a list": (1, ["INT8 (openvino)"]),
    "align unknown": (2, "x"),
    "scale none": (3, None),
    "scale huge": (3, 10**9),
    "scale text": (3, "4; rm"),
    "tile odd": (4, 100),
    "tile huge": (4, 10**12),
    "tile text": (4, "x"),
    "tile negative": (4, -5),
    "seed huge": (5, 10**40),
    "seed negative": (5, -1),
    "seed none": (5, None),
    "format executable": (6, "exe"),
    "format none": (6, None),
}
RAW: dict[str, tuple[str, bytes, str]] = {
    "no boundary": ("/gradio_api/upload", b"x", "multipart/form-data"),
    "no end": ("/gradio_api/upload", b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx',
               "multipart/form-data; boundary=b"),
    "no parts": ("/gradio_api/upload", b"", "multipart/form-data; boundary=b"),
    "not multipart": ("/gradio_api/upload", b"{}", "application/json"),
    "broken headers": ("/gradio_api/upload", b"--b\r\n:\r\n\r\n\r\n--b--", "multipart/form-data; boundary=b"),
    "call of no function": ("/gradio_api/call/nothing", b'{"data": []}', "application/json"),
    "call without data": ("/gradio_api/call/upscale", b"{}", "application/json"),
    "call of no JSON": ("/gradio_api/call/upscale", b"{", "application/json"),
    "private function": ("/gradio_api/run/_left", b'{"data": []}', "application/json"),
    "nesting": ("/gradio_api/call/upscale", b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b"}", "application/json"),
    "session a path": ("/gradio_api/call/cancel", b'{"data": [], "session_hash": "../../.."}', "application/json"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    for kind in FORMATS:
        chance = random.Random(kind)
        data = whole(kind)
        for place in sorted(chance.sample(range(1, len(data)), PLACES)):
            for name, damage in DAMAGES.items():
                hurt = damage(data, place, chance)
                yield Case(f"{name} {kind} at {place}", KIND, partial(_make, partial(send, hurt, f"hurt.{kind}")))
    for label, name in NAMES.items():
        yield Case(f"name {label}", KIND, partial(_make, partial(send, whole("png"), name)))
    for label, data in (("empty", b""), ("zeros", bytes(10**6)), ("too large", bytes(3 << 20))):
        yield Case(f"file {label}", KIND, partial(_make, partial(send, data, "picture.png")))
    for label, payload in PAYLOADS.items():
        yield Case(f"pictures {label}", KIND, partial(_make, partial(call_with, payload)))
    for label, (place, value) in OPTIONS.items():
        yield Case(f"option {label}", KIND, partial(_make, partial(choose, place, value)))
    for label, (path, body, kind) in RAW.items():
        yield Case(f"raw {label}", KIND, partial(_make, partial(post, path, body, kind)))
    yield Case("upload broken off", KIND, partial(_make, break_off))
    yield Case("session left at work", KIND, partial(_make, leave))


Attack = Callable[["Visit"], list[str]]  # gives the lines of refusal, none where all went well


def _make(attack: Attack, folder: Path, bench: Bench) -> Trial:
    """The attack, then a good picture in another session: it must come as ever, and no file may stay.

    What was uploaded for a call that Gradio refuses is nobody's; it goes within a minute, or when the server ends.
    """

    def run(_folder: Path) -> Outcome:
        server = serving(bench)
        began, said = time.perf_counter(), server.log.stat().st_size
        with Visit(server) as attacker:
            lines = attack(attacker)
        with Visit(server) as visit:
            path = visit.upload(bench.good.read_bytes(), "good.png")
            _line, files = visit.call([path])
            (folder / "good.png").write_bytes(visit.fetch(files[0]))
        wait_for(lambda: attacker.gone() and visit.gone(), lambda: f"left: {server.files()}")
        log = server.log.read_text(encoding="utf-8")[said:]
        trace = log if "Traceback" in log and "/runtime/" in log else ""
        errors = "".join(f"error: {line}\n" for line in lines)
        return Outcome(1 if lines else 0, "", errors, trace, seconds=time.perf_counter() - began)

    def right(_outcome: Outcome) -> str:
        return difference(folder / "good.png", bench.result)

    return Trial(["serve"], None, right, must=("good.png",), may=("good.png",), run=run, seconds=90)


class Visit:
    """A session of a browser: its heartbeat is heard until it leaves."""

    def __init__(self, server: Served) -> None:
        import httpx

        self.server, self.session = server, secrets.token_hex(8)
        self.http = httpx.Client(base_url=server.address, timeout=60, trust_env=False)
        self.stack = ExitStack()
        self.mine: list[str] = []

    def __enter__(self) -> Visit:
        self.stack.enter_context(self.http)
        self.stack.enter_context(self.http.stream("GET", f"/gradio_api/heartbeat/{self.session}"))
        return self

    def __exit__(self, *_error: object) -> None:
        self.stack.close()

    def gone(self) -> bool:
        """Nothing is left of what was called with."""
        return not any(Path(path).exists() for path in self.mine)

    def upload(self, data: bytes, name: str) -> str:
        """Where the server put it; an error line raises."""
        answer = self.http.post("/gradio_api/upload", files=[("files", (name, data, "application/octet-stream"))])
        if answer.status_code != 200:
            raise Refused(f"{answer.status_code}: {answer.text[:200]}")
        return str(answer.json()[0])

    def call(self, paths: list[str]) -> tuple[str, list[str]]:
        self.mine += paths
        return self.begin([{"path": path, "meta": FILE} for path in paths])

    def begin(self, pictures: Any, change: tuple[int, Any] | None = None) -> tuple[str, list[str]]:
        """The line and the files of a call of /upscale."""
        data = [pictures, "INT8 (openvino)", "the model's own", 2, -1, 0, "png"]
        if change is not None:
            data[change[0]] = change[1]
        answer = self.http.post("/gradio_api/call/upscale", json={"data": data, "session_hash": self.session})
        if answer.status_code != 200:
            raise Refused(f"{answer.status_code}: {answer.text[:200]}")
        text = self.http.get(f"/gradio_api/call/upscale/{answer.json()['event_id']}").text
        kind, _, last = text.strip().split("\n\n")[-1].partition("\n")
        if "complete" not in kind:
            raise Refused(f"{kind} {last[:200]}")
        line, files = json.loads(last.removeprefix("data: "))
        found = [file["path"] for file in files or []]
        self.mine += found
        return line, found

    def fetch(self, path: str) -> bytes:
        return self.http.get(f"/gradio_api/file={path}").raise_for_status().content


class Refused(Exception):
    """The server said no, in one line."""


def _told(work: Callable[[], tuple[str, list[str]]]) -> list[str]:
    try:
        line, files = work()
    except Refused as error:
        return [" ".join(str(error).split())]
    return [] if files else [line]


def send(data: bytes, name: str, visit: Visit) -> list[str]:
    return _told(lambda: visit.call([visit.upload(data, name)]))


def call_with(payload: Any, visit: Visit) -> list[str]:
    return _told(lambda: visit.begin(payload))


def choose(place: int, value: Any, visit: Visit) -> list[str]:
    path = visit.upload(whole("png"), "picture.png")
    return _told(lambda: visit.begin([{"path": path, "meta": FILE}], (place, value)))


def post(path: str, body: bytes, kind: str, visit: Visit) -> list[str]:
    answer = visit.http.post(path, content=body, headers={"Content-Type": kind})
    return [f"{answer.status_code}"]


def break_off(visit: Visit) -> list[str]:
    def half() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(100_000)
        raise ConnectionAbortedError

    try:
        visit.http.post(
            "/gradio_api/upload", content=half(), headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
    except ConnectionAbortedError:
        return ["broken off"]
    return []


def leave(visit: Visit) -> list[str]:
    path = visit.upload(whole("png"), "picture.png")
    data = [[{"path": path, "meta": FILE}] * 50, "INT8 (openvino)", "the model's own", 2, -1, 0, "png"]
    visit.mine.append(path)
    visit.http.post("/gradio_api/call/upscale", json={"data": data, "session_hash": visit.session})
    time.sleep(0.2)
    return ["left"]


@cache
def serving(bench: Bench) -> Served:
    """This process's server, until the process ends."""
    folder = bench.root / f"served-{secrets.token_hex(4)}"
    folder.mkdir()
    stack = ExitStack()
    multiprocessing.util.Finalize(None, stack.close, exitpriority=10)
    return stack.enter_context(served(folder, bench.int8, options=("--max-upload", "2"), prepare=_die_with_parent))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
