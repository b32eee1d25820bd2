"""What may be sent to `serve`: damaged pictures, odd names, calls that are none, uploads that break off."""

from __future__ import annotations

import ctypes
import json
import multiprocessing.util
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.bench import Bench, difference
from tests.hostile.encoded import FORMATS, damaged, drawn, whole
from tests.hostile.trial import Outcome, Trial
from tests.serving import Served, needs_gradio, served, wait_for

pytestmark = needs_gradio
NAMES = {
    "up": "../../up.png", "absolute": "/etc/passwd.png", "backslashes": "..\\..\\up.png",
    "long": "x" * 300 + ".png", "longest": "x" * 5000 + ".png", "wide": "🦊" * 90 + ".png", "dots": "..",
    "dot": ".hidden.png", "nothing": "", "space": " .png", "newline": "a\nb.png", "escape": "a\x1b[31mb.png",
    "quotes": "a\"b'c.png", "markup": "<img src=x onerror=alert(1)>.png", "right to left": "a\u202egnp.exe",
    "device": "CON.png", "no suffix": "picture", "executable": "picture.exe", "percent": "%2e%2e%2f%00.png",
    "format": "{0}%s%n.png", "own temporary": ".passsionsr-0-1-picture.png", "wrong suffix": "picture.jpg",
    "vector": "picture.svg",
}  # fmt: skip
FILE = {"_type": "gradio.FileData"}
PAYLOADS: dict[str, Any] = {
    "nothing": None, "text": "picture.png", "number": 7, "no files": [], "empty file": [{}],
    "server's file": [{"path": "/etc/passwd", "meta": FILE}], "own folder": [{"path": ".", "meta": FILE}],
    "up": [{"path": "../../../etc/passwd", "meta": FILE}],
    "address": [{"path": "http://127.0.0.1:9/a.png", "meta": FILE}],
    "address beside": [{"path": "a.png", "url": "http://127.0.0.1:9/a.png", "meta": FILE}],
    "file address": [{"path": "file:///etc/passwd", "meta": FILE}], "NUL": [{"path": "a\x00.png", "meta": FILE}],
    "number as path": [{"path": 5, "meta": FILE}], "nested": [[[{"path": "a", "meta": FILE}]]],
    "stream": [{"path": "a.png", "is_stream": True, "meta": FILE}],
    "many": [{"path": "a.png", "meta": FILE}] * 2000,
}  # fmt: skip
OPTIONS: dict[str, tuple[int, Any]] = {
    "engines unknown": (1, "other"), "engines a path": (1, "/etc"), "engines a list": (1, ["INT8"]),
    "align unknown": (2, "x"), "scale none": (3, None), "scale huge": (3, 10**9), "scale text": (3, "4; rm"),
    "tile odd": (4, 100), "tile huge": (4, 10**12), "tile text": (4, "x"), "tile negative": (4, -5),
    "seed huge": (5, 10**40), "seed negative": (5, -1), "seed none": (5, None), "format executable": (6, "exe"),
    "format none": (6, None),
}  # fmt: skip
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

    def upload(self, data: bytes, name: str) -> dict[str, Any]:
        """What a call names it by; an error line raises."""
        answer = self.http.post("/gradio_api/upload", files=[("files", (name, data, "application/octet-stream"))])
        if answer.status_code != 200:
            raise Refused(f"{answer.status_code}: {answer.text[:200]}")
        return {"path": str(answer.json()[0]), "meta": FILE}

    def send(self, data: bytes, name: str) -> list[str]:
        """The files of a call of one picture."""
        picture = self.upload(data, name)
        self.mine.append(picture["path"])
        return self.call([picture])

    def begin(self, pictures: Any, change: tuple[int, Any] | None = None) -> str:
        """A call of /upscale is begun; its address."""
        data = [pictures, "INT8", "the model's own", 2, -1, 0, "png"]
        if change is not None:
            data[change[0]] = change[1]
        answer = self.http.post("/gradio_api/call/upscale", json={"data": data, "session_hash": self.session})
        if answer.status_code != 200:
            raise Refused(f"{answer.status_code}: {answer.text[:200]}")
        return f"/gradio_api/call/upscale/{answer.json()['event_id']}"

    def call(self, pictures: Any, change: tuple[int, Any] | None = None) -> list[str]:
        """The files of a call of /upscale."""
        text = self.http.get(self.begin(pictures, change)).text
        kind, _, last = text.strip().split("\n\n")[-1].partition("\n")
        if "complete" not in kind:
            raise Refused(f"{kind} {last[:200]}")
        line, files = json.loads(last.removeprefix("data: "))
        found = [file["path"] for file in files or []]
        self.mine += found
        if not found:
            raise Refused(line)
        return found

    def fetch(self, path: str) -> bytes:
        return self.http.get(f"/gradio_api/file={path}").raise_for_status().content


class Refused(Exception):
    """The server said no, in one line."""


Attack = Callable[[Visit], Any]  # raises Refused


def attacked(trial: Trial, attack: Attack) -> None:
    """The attack, then a good picture in another session: it must come as ever, and no file may stay.

    What was uploaded for a call that Gradio refuses is nobody's; it goes within a minute, or when the server ends.
    """

    def run(_argv: list[str], folder: Path, _seconds: float) -> Outcome:
        server = serving(trial.bench)
        began, said, errors = time.perf_counter(), server.log.stat().st_size, ""
        with Visit(server) as attacker:
            try:
                attack(attacker)
            except Refused as error:
                errors = f"error: {' '.join(str(error).split())}"
        with Visit(server) as visit:
            files = visit.send(trial.bench.good.read_bytes(), "good.png")
            (folder / "good.png").write_bytes(visit.fetch(files[0]))
        wait_for(lambda: attacker.gone() and visit.gone(), lambda: f"left: {server.files()}")
        log = server.log.read_text(encoding="utf-8")[said:]
        trace = log if "Traceback" in log and "/runtime/" in log else ""
        return Outcome(int(bool(errors)), "", errors, time.perf_counter() - began, trace)

    trial.command("serve", must=("good.png",), may=("good.png",), run=run, seconds=90)
    assert not difference(trial.folder / "good.png", trial.bench.result)


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


@pytest.mark.parametrize("kind", FORMATS)
@drawn(24)
@given(data=st.data())
def test_a_damaged_upload(trials: Callable[[], AbstractContextManager[Trial]], kind: str, data: Any) -> None:
    hurt = damaged(whole(kind), data.draw)
    with trials() as trial:
        attacked(trial, lambda visit: visit.send(hurt, f"hurt.{kind}"))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_odd_name(trial: Trial, name: str) -> None:
    attacked(trial, lambda visit: visit.send(whole("png"), name))


@pytest.mark.parametrize("data", (b"", bytes(10**6), bytes(3 << 20)), ids=("empty", "zeros", "too large"))
def test_no_picture(trial: Trial, data: bytes) -> None:
    attacked(trial, lambda visit: visit.send(data, "picture.png"))


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_call_of_no_pictures(trial: Trial, payload: Any) -> None:
    attacked(trial, lambda visit: visit.call(payload))


@pytest.mark.parametrize(("place", "value"), OPTIONS.values(), ids=OPTIONS)
def test_a_wrong_option(trial: Trial, place: int, value: Any) -> None:
    attacked(trial, lambda visit: visit.call([visit.upload(whole("png"), "picture.png")], (place, value)))


@pytest.mark.parametrize(("path", "body", "kind"), RAW.values(), ids=RAW)
def test_a_raw_request(trial: Trial, path: str, body: bytes, kind: str) -> None:
    attacked(trial, lambda visit: visit.http.post(path, content=body, headers={"Content-Type": kind}))


def test_an_upload_that_breaks_off(trial: Trial) -> None:
    def half() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(100_000)
        raise ConnectionAbortedError

    def attack(visit: Visit) -> None:
        with pytest.raises(ConnectionAbortedError):
            kind = "multipart/form-data; boundary=b"
            visit.http.post("/gradio_api/upload", content=half(), headers={"Content-Type": kind})

    attacked(trial, attack)


def test_a_session_that_is_left_at_work(trial: Trial) -> None:
    def leave(visit: Visit) -> None:
        picture = visit.upload(whole("png"), "picture.png")
        visit.mine.append(picture["path"])
        visit.begin([picture] * 50)
        time.sleep(0.2)

    attacked(trial, leave)
