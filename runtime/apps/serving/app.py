"""serve: start the page, say where it is, and leave nothing behind."""

from __future__ import annotations

import ipaddress
import os
import sys
import threading
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.runtime.apps.serving.engines import EngineChoice, offers
from passionsr_trt.runtime.apps.serving.examples import EXAMPLES
from passionsr_trt.runtime.apps.serving.opening import open_page
from passionsr_trt.runtime.apps.serving.sessions import Cancelled, CancelToken, Sessions
from passionsr_trt.runtime.apps.serving.work import try_out
from passionsr_trt.runtime.backends.packaged import located
from passionsr_trt.runtime.pictures.images import Colour

TIDY = 10.0  # seconds between two looks at what may go


@dataclass(frozen=True)
class ServeRequest:
    """engines: folders of engines or ONNX bundles. max_upload: bytes of a file; max_pixels: of its picture; cache:
    bytes of compiled models that are kept, 0: none. browser: open the page, where somebody would see it.
    """

    engines: list[Path]
    port: int
    host: str
    share: bool
    max_upload: int
    max_pixels: int
    background: Colour
    threads: int
    provider: str
    cache: int
    browser: bool


def serve(request: ServeRequest) -> int:
    """The page, until Ctrl-C."""
    folders = [located(folder) for folder in request.engines]
    choice = EngineChoice(offers(folders, request.provider, request.threads, request.cache))
    with closing(choice), temporary_folder() as folder:
        choice.chain(next(iter(choice.offers)))  # what does not load is said now
        sessions = Sessions(folder)
        launched = launch(choice, sessions, request)
        trial = CancelToken()
        trying = threading.Thread(target=try_quietly, args=(choice, trial), daemon=True)
        trying.start()
        try:
            print(f"{launched.local_url} with {' and '.join(choice.offers)}, until Ctrl-C", flush=True)
            if request.share:
                print(f"shared with everybody who has {launched.share_url}: at most a week", flush=True)
            if request.browser:
                open_page(launched.local_url)
            while not threading.Event().wait(TIDY):
                sessions.tidy()
        finally:
            trial.ended = True
            launched.close(verbose=False)
            sessions.close()
            with choice.turn(lambda: None):  # who is at work gives up at the next tile
                choice.close()
    return 0


def try_quietly(choice: EngineChoice, token: CancelToken) -> None:
    """Measure the first engines on an example. Whatever goes wrong will be told of somebody's own picture."""
    with suppress(Cancelled, UserError, MemoryError, OSError):
        try_out(choice, next(iter(EXAMPLES.values())), token)


def launch(choice: EngineChoice, sessions: Sessions, request: ServeRequest) -> Any:
    """The running page, a gradio.Blocks: no telemetry, nothing from elsewhere, files in the sessions' folder."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.root)  # read when Gradio is imported, and after
    import gradio as gr
    from passionsr_trt.runtime.apps.serving.look import STYLE, theme
    from passionsr_trt.runtime.apps.serving.page import Page

    if not is_loopback(request.host):
        warn(f"--host {request.host}: whoever reaches this machine can use the page; there is no password")
    if request.share:
        warn("--share: a public address is opened through Gradio's servers; whoever has it can use the page")
    gr.set_static_paths(list(EXAMPLES.values()))  # else copies of them are made for every start, and tidied away
    page = Page(choice, sessions, request.max_pixels, request.background).blocks
    try:
        page.launch(
            server_name=request.host,
            server_port=request.port,
            share=request.share,
            max_file_size=request.max_upload,
            theme=theme(),
            css=STYLE,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            show_error=True,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        reason = f"--port {request.port}: cannot be listened to at {request.host} ({error})"
        raise UserError(reason, "expected a free port", "name another") from None
    return page


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
