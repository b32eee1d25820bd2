"""serve: start the page, say where it is, and leave nothing behind."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
import threading
from contextlib import closing
from typing import Any

from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.runtime.apps.serving.engines import Stand, offers
from passionsr_trt.runtime.apps.serving.sessions import Sessions

TIDY = 10.0  # seconds between two looks at what may go


def run_serve(arguments: argparse.Namespace) -> int:
    cache = 0 if arguments.no_cache else arguments.cache_size
    stand = Stand(offers(arguments.engines, arguments.provider, arguments.threads, cache))
    with closing(stand), temporary_folder() as folder:
        stand.chain(next(iter(stand.offers)))  # what does not load is said now
        sessions = Sessions(folder)
        launched = launch(stand, sessions, arguments)
        try:
            print(f"{launched.local_url} with {' and '.join(stand.offers)}, until Ctrl-C", flush=True)
            if arguments.share:
                print(f"shared with everybody who has {launched.share_url}: at most a week", flush=True)
            while not threading.Event().wait(TIDY):
                sessions.tidy()
        finally:
            launched.close(verbose=False)
            sessions.close()
            with stand.turn(lambda: None):  # who is at work gives up at the next tile
                stand.close()
    return 0


def launch(stand: Stand, sessions: Sessions, arguments: argparse.Namespace) -> Any:
    """The running page, a gradio.Blocks: no telemetry, nothing from elsewhere, files in the sessions' folder."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.root)  # read when Gradio is imported, and after
    from passionsr_trt.runtime.apps.serving.look import STYLE, theme
    from passionsr_trt.runtime.apps.serving.page import Page

    if not is_loopback(arguments.host):
        warn(f"--host {arguments.host}: whoever reaches this machine can use the page; there is no password")
    if arguments.share:
        warn("--share: a public address is opened through Gradio's servers; whoever has it can use the page")
    page = Page(stand, sessions, arguments.max_pixels, arguments.background).blocks
    try:
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            share=arguments.share,
            max_file_size=arguments.max_upload,
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
        reason = f"--port {arguments.port}: cannot be listened to at {arguments.host} ({error})"
        raise UserError(reason, "expected a free port", "name another") from None
    return page


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
