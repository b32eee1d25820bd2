"""The page and its API: Gradio's components around the work."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.apps.serving.engines import EngineChoice
from passionsr_trt.runtime.apps.serving.look import uploads
from passionsr_trt.runtime.apps.serving.sessions import Cancelled, Sessions
from passionsr_trt.runtime.apps.serving.work import OWN_FORMAT, Report, Shown, Wishes, upscale_pictures
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.pictures.images import WHITE, Colour

OWN_ALIGN = "the model's own"
NOBODY = "none"
WAITING = 32  # presses of the button that may wait
TITLE = "passionsr-trt"
INTRODUCTION = f"# {TITLE}\nDrop pictures and enlarge them. They stay on this machine, and go when you leave."


class Page:
    """choice: engines; sessions: files; most_pixels: of an uploaded picture; background: of JPEGs."""

    def __init__(
        self, choice: EngineChoice, sessions: Sessions, most_pixels: int, background: Colour = WHITE
    ) -> None:
        self.choice, self.sessions, self.most_pixels, self.background = choice, sessions, most_pixels, background
        self.labels = list(choice.offers)
        with gr.Blocks(title=TITLE, analytics_enabled=False) as self.blocks:
            gr.Markdown(INTRODUCTION)
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    self._add_inputs()
                with gr.Column(scale=2, min_width=320):
                    self._add_outputs()
            self._connect()
        self.blocks.queue(max_size=WAITING, default_concurrency_limit=1)

    def _add_inputs(self) -> None:
        """In the order of `_wishes`."""
        several = len(self.labels) > 1
        scales = self.choice.scales
        self.pictures = uploads(label="Pictures", elem_id="pictures")
        first = gr.Dropdown(self.labels, value=self.labels[0], label="Engines", elem_id="engines")
        self.beside = gr.Dropdown(
            [NOBODY, *self.labels],
            value=self.labels[1] if several else NOBODY,
            label="Second engines",
            visible=several,
        )
        with gr.Row():
            self.go = gr.Button("Enlarge", variant="primary", elem_id="go", min_width=120)
            self.stop = gr.Button("Cancel", elem_id="stop", min_width=120)
        with gr.Accordion("More", open=False, elem_id="more"):
            more = [
                gr.Dropdown([OWN_ALIGN, *ALIGNMENTS], value=OWN_ALIGN, label="Colour fix"),
                gr.Dropdown(sorted(scales), value=scales[0], label="Scale", visible=len(scales) > 1),
                gr.Number(
                    -1,
                    label="Tile",
                    info="output pixels; −1: by size and memory, 0: never",
                    precision=0,
                    minimum=-1,
                    elem_id="tile",
                ),
                gr.Number(0, label="Seed", info="for models that draw noise", precision=0, minimum=0),
                gr.Dropdown([OWN_FORMAT, "png", "jpg", "webp"], value=OWN_FORMAT, label="File format"),
            ]
        self.inputs = [self.pictures, first, self.beside, *more]
        self.called = gr.Button(visible=False)  # the API's
        self.called_with = [self.pictures, first, *more]

    def _add_outputs(self) -> None:
        """In the order of `_look`."""
        self.status = gr.Textbox(label="What happened", lines=3, max_lines=12, interactive=False, elem_id="status")
        self.results = gr.State([])
        self.chosen = gr.Dropdown([], label="Picture", visible=False, elem_id="chosen")
        several = len(self.labels) > 1
        with gr.Column(visible=False) as self.outcome:  # Gradio's empty frames are nothing to a screen reader
            with gr.Tabs():
                with gr.Tab("Bicubic"):
                    enlarged = _slider("bicubic", "bicubic")
                with gr.Tab("Second", visible=several):
                    beside = _slider("second engines", "beside")
                with gr.Tab("Difference", visible=several):
                    difference = _slider("128 + 8 × (second engines − result)", "difference")
            self.divider = gr.Slider(
                0, 100, 50, step=1, label="Divider", info="percent from the left; for keyboards", elem_id="divider"
            )
            seconds = gr.Dataframe(label="Seconds by part", interactive=False, elem_id="seconds")
            self.files = gr.File(label="Download", file_count="multiple", interactive=False, elem_id="files")
        self.looks = [enlarged, beside, difference, seconds]
        self.sliders = [enlarged, beside, difference]

    def _connect(self) -> None:
        private: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        work: dict[str, Any] = {"concurrency_id": "chain", "concurrency_limit": 1}
        self.pictures.upload(self._uploaded, self.pictures, None, **private)
        self.go.click(self._pressed, None, self.go, **private).then(
            self._enlarge,
            self.inputs,
            [self.status, self.results, self.outcome, self.files, self.chosen, *self.looks],
            api_visibility="private",
            show_progress_on=self.status,
            **work,
        ).then(lambda: gr.Button(interactive=True), None, self.go, **private)
        self.stop.click(self._cancel, None, self.status, api_name="cancel", queue=False, show_progress="hidden")
        self.chosen.input(self._choose, [self.chosen, self.results], self.looks, **private)
        self.divider.input(_divide, self.divider, self.sliders, trigger_mode="always_last", **private)
        self.called.click(self._call, self.called_with, [self.status, self.files], api_name="upscale", **work)
        self.blocks.unload(self._left)

    def _uploaded(self, paths: list[str], request: gr.Request) -> None:
        self.sessions.uploaded(_name(request), map(Path, paths))

    def _pressed(self, request: gr.Request) -> Any:
        self.sessions.wait(_name(request))
        return gr.Button(interactive=False)

    def _cancel(self, request: gr.Request) -> str:
        return "cancelled" if self.sessions.cancel(_name(request)) else "nothing to cancel"

    def _left(self, request: gr.Request) -> None:
        self.sessions.end(_name(request))

    def _enlarge(
        self,
        pictures: list[str],
        engines: str,
        beside: str,
        align: str,
        scale: int,
        tile: int,
        seed: int,
        form: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by this default)
    ) -> Iterator[tuple[Any, ...]]:
        """Status, all results, their place, files, the choice of one, its looks: again after every picture."""
        wishes = _wishes(engines, beside, align, scale, tile, seed, form)
        shown: list[Shown] = []
        for shown, line in self._run(_name(request), pictures, wishes, _reporter(progress)):
            good = [one for one in shown if one.file]
            names = [(f"{index + 1}: {one.name}", index) for index, one in enumerate(good)]
            choice = gr.Dropdown(names, value=0 if good else None, visible=len(good) > 1)
            files = [str(one.file) for one in good]
            yield line, good, gr.Column(visible=bool(good)), files, choice, *_look(good[:1])

    def _call(
        self,
        pictures: list[str],
        engines: str,
        align: str,
        scale: int,
        tile: int,
        seed: int,
        form: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[tuple[str, list[str]]]:
        """What happened, line by line, and the files."""
        wishes = _wishes(engines, NOBODY, align, scale, tile, seed, form)
        for shown, line in self._run(_name(request), pictures, wishes, _reporter(progress)):
            yield line, [str(one.file) for one in shown if one.file]

    def _run(
        self, session: str, pictures: Sequence[str], wishes: Wishes, report: Report
    ) -> Iterator[tuple[list[Shown], str]]:
        """All outcomes so far and what is to be said, after every picture and at the end."""
        shown: list[Shown] = []
        wishes = replace(wishes, options=replace(wishes.options, background=self.background))

        def said(*more: str) -> str:
            return "\n".join([*(one.line for one in shown), *more])

        if not pictures:
            yield shown, "no pictures; expected some"
            return
        paths = [Path(picture) for picture in pictures]
        with self.sessions.work(session, paths) as (token, folder):
            try:
                for one in upscale_pictures(self.choice, paths, wishes, folder, token, report, self.most_pixels):
                    shown.append(one)
                    yield shown, said()
            except Cancelled:
                yield shown, said(f"cancelled; {len(shown)} of {len(paths)} pictures done")
            except (UserError, OSError) as error:
                yield shown, said(str(error))

    def _choose(self, index: int, shown: list[Shown]) -> tuple[Any, ...]:
        return _look(shown[index : index + 1])


def _slider(left: str, name: str) -> gr.ImageSlider:
    return gr.ImageSlider(label=f"left: {left}, right: result", type="filepath", max_height=900, elem_id=name)


def _divide(percent: float) -> list[gr.ImageSlider]:
    return [gr.ImageSlider(slider_position=percent)] * 3


def _name(request: gr.Request) -> str:
    return request.session_hash or ""


def _reporter(progress: gr.Progress) -> Report:
    return lambda share, text: progress(share, desc=text)


def _wishes(engines: str, beside: str, align: str, scale: int, tile: int | None, seed: int, form: str) -> Wishes:
    """A client may send a list where a choice is expected: Gradio lets it pass."""
    options = Options(
        align if align in ALIGNMENTS else None, None if tile is None or tile < 0 else tile, seed=seed or 0
    )
    second = None if beside == NOBODY else str(beside)
    return Wishes(str(engines), second, scale if isinstance(scale, int) else None, str(form), options)


def _look(shown: list[Shown]) -> tuple[Any, ...]:
    """Of one picture, or none: against bicubic, against the second engines, their difference, seconds."""
    if not shown:
        return None, None, None, None
    (one,) = shown
    looks = {name: str(path) for name, path in one.looks.items()}
    parts = list(next(iter(one.seconds.values())))
    rows = [
        [label, *(f"{found[part]:.3f}" for part in parts), f"{sum(found.values()):.3f}"]
        for label, found in one.seconds.items()
    ]
    return (
        (looks["bicubic"], looks["result"]),
        (looks["other"], looks["result"]) if "other" in looks else None,
        (looks["difference"], looks["result"]) if "difference" in looks else None,
        gr.Dataframe(rows, headers=["engines", *parts, "in all"]),
    )
