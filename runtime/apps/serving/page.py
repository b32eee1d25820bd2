"""The page and its API: Gradio's components around the work."""

from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.runtime.apps.serving.engines import EngineChoice
from passionsr_trt.runtime.apps.serving.examples import EXAMPLES, copy_of
from passionsr_trt.runtime.apps.serving.look import uploads
from passionsr_trt.runtime.apps.serving.meter import Report
from passionsr_trt.runtime.apps.serving.plans import plans
from passionsr_trt.runtime.apps.serving.sessions import Cancelled, Sessions
from passionsr_trt.runtime.apps.serving.viewer import FRAME, SCRIPT, rendered, viewer
from passionsr_trt.runtime.apps.serving.work import (
    OWN_FORMAT,
    Shown,
    Wishes,
    compare_picture,
    told,
    upscale_pictures,
)
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.pictures.images import WHITE, Colour

OWN_ALIGN = "the model's own"
WAITING = 32  # presses of the button that may wait
TITLE = "Enlarge pictures"
INTRODUCTION = f"# {TITLE}\nThe machine that serves this page enlarges them. They are deleted when you close it."
# on a phone what happens is below what was pressed
SHOW_STATUS = """() => {
  document.querySelector("#status").scrollIntoView({block: "nearest", behavior: "smooth"});
  return [];
}"""


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
        scales = self.choice.scales
        self.pictures = uploads(label="Pictures", elem_id="pictures", height=170)
        with gr.Row(elem_id="examples"):
            self.examples = {
                name: gr.Button(f"Example: {name}", icon=str(path), size="sm", min_width=120)
                for name, path in EXAMPLES.items()
            }
        self.plan = gr.HTML(elem_id="plan")
        first = gr.Dropdown(
            self.labels, value=self.labels[0], label="Model", elem_id="engines", interactive=len(self.labels) > 1
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
        self.inputs: list[Any] = [self.pictures, first, *more]
        self.called = gr.Button(visible=False)  # the API's

    def _add_outputs(self) -> None:
        """In the order of `_look`."""
        self.status = gr.Textbox(
            label="What happened",
            placeholder="Drop a picture, or take an example; then press Enlarge.",
            lines=2,
            max_lines=12,
            interactive=False,
            elem_id="status",
        )
        self.results = gr.State([])
        self.chosen = gr.Dropdown([], label="Picture", visible=False, elem_id="chosen")
        with gr.Column(visible=False) as self.outcome:  # Gradio's empty frames are nothing to a screen reader
            seen = gr.HTML(html_template=FRAME, js_on_load=SCRIPT, elem_id="viewer", apply_default_css=False)
            self.files = gr.File(label="Download", file_count="multiple", interactive=False, elem_id="files")
            with gr.Row(visible=len(self.labels) > 1):
                other = gr.Dropdown([], label="Compare with", elem_id="other", scale=2, min_width=240)
                self.compare = gr.Button("Compare", elem_id="compare", min_width=120)
            with gr.Accordion("Details", open=False, elem_id="details"):
                figures = gr.HTML(elem_id="seconds", apply_default_css=False)
        self.looks = [seen, other, figures]

    def _connect(self) -> None:
        private: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        work: dict[str, Any] = {"concurrency_id": "chain", "concurrency_limit": 1}
        watched: dict[str, Any] = {"api_visibility": "private", "show_progress_on": self.status, **work}
        buttons = [self.go, self.compare]
        self.pictures.upload(self._uploaded, self.pictures, None, **private)
        for name, button in self.examples.items():
            button.click(self._taker(name), None, self.pictures, **private)
        planned = {**private, "queue": True, "concurrency_limit": 2, "trigger_mode": "always_last"}
        gr.on([one.change for one in self.inputs], self._plan, self.inputs, self.plan, **planned)
        self.go.click(self._pressed, None, [*buttons, self.outcome], js=SHOW_STATUS, **private).then(
            self._enlarge,
            self.inputs,
            [self.status, self.results, self.outcome, self.files, self.chosen, *self.looks],
            **watched,
        ).then(_ready, None, buttons, **private)
        self.compare.click(self._compared, None, buttons, js=SHOW_STATUS, **private).then(
            self._compare,
            [self.chosen, self.looks[1], self.results],
            [self.status, self.results, *self.looks],
            **watched,
        ).then(_ready, None, buttons, **private)
        self.stop.click(self._cancel, None, self.status, api_name="cancel", queue=False, show_progress="hidden")
        self.chosen.input(self._choose, [self.chosen, self.results], self.looks, **private)
        self.called.click(self._call, self.inputs, [self.status, self.files], api_name="upscale", **work)
        self.blocks.unload(self._left)

    def _uploaded(self, paths: list[str], request: gr.Request) -> None:
        self.sessions.uploaded(_name(request), map(Path, paths))

    def _taker(self, name: str) -> Callable[[gr.Request], list[str]]:
        """Gives an example, as if it had been uploaded."""

        def take(request: gr.Request) -> list[str]:
            path = copy_of(name, self.sessions.root)
            self.sessions.uploaded(_name(request), [path])
            return [str(path)]

        return take

    def _plan(self, pictures: list[str], *chosen: Any) -> str:
        return plans(self.choice, [Path(path) for path in pictures], _wishes(*chosen), self.most_pixels)

    def _pressed(self, request: gr.Request) -> Any:
        self.sessions.wait(_name(request))
        return gr.Button(interactive=False), gr.Button(interactive=False), gr.Column(visible=False)

    def _compared(self, request: gr.Request) -> Any:
        self.sessions.wait(_name(request))
        return gr.Button(interactive=False), gr.Button(interactive=False)

    def _cancel(self, request: gr.Request) -> str:
        return "cancelled" if self.sessions.cancel(_name(request)) else "nothing to cancel"

    def _left(self, request: gr.Request) -> None:
        self.sessions.end(_name(request))

    def _enlarge(
        self,
        pictures: list[str],
        engines: str,
        align: str,
        scale: int,
        tile: int,
        seed: int,
        form: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by this default)
    ) -> Iterator[tuple[Any, ...]]:
        """Status, all results, their place, files, the choice of one, its looks: again after every picture.

        The first good one is looked at, and stays so while others come.
        """
        wishes = _wishes(engines, align, scale, tile, seed, form)
        seen = 0
        for shown, line in self._run(_name(request), pictures, wishes, _reporter(progress)):
            good = [one for one in shown if one.file]
            names = [(f"{index + 1}: {one.name}", index) for index, one in enumerate(good)]
            files = [str(one.file) for one in good]
            if good and not seen:
                choice, looks = gr.Dropdown(names, value=0, visible=len(good) > 1), self._look(good[0])
            else:
                choice, looks = gr.Dropdown(names, visible=len(good) > 1), (gr.skip(),) * len(self.looks)
            seen = len(good)
            yield line, good, gr.Column(visible=bool(good)), files, choice, *looks

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
        wishes = _wishes(engines, align, scale, tile, seed, form)
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

    def _compare(
        self,
        index: int,
        label: str,
        shown: list[Shown],
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        """Status, all results, the looks of one, which was made by other engines as well."""
        same = (gr.skip(),) * len(self.looks)
        one = next(iter(shown[index or 0 :]), None)
        if one is None:
            return "no picture to compare", shown, *same
        with self.sessions.work(_name(request), [one.source]) as (token, folder):
            try:
                compared = compare_picture(self.choice, one, str(label), folder, token, _reporter(progress))
            except Cancelled:
                return "cancelled", shown, *same
            except (UserError, MemoryError, OSError) as error:
                return printable(told(error, one.source)), shown, *same
        line = f"{one.name}: compared with {label}"
        return line, [compared if other is one else other for other in shown], *self._look(compared)

    def _choose(self, index: int, shown: list[Shown]) -> tuple[Any, ...]:
        return self._look(shown[index])

    def _look(self, one: Shown) -> tuple[Any, ...]:
        """Of a good outcome: the slider, what it may be compared with, its figures."""
        others = [label for label in self.labels if label != one.wishes.engines]
        figures = one.figures.values()
        rows = [
            [part, *(f"{found.seconds[part]:.3f}" for found in figures)] for part in next(iter(figures)).seconds
        ]
        rows.append(["in all", *(f"{sum(found.seconds.values()):.3f}" for found in figures)])
        rows.append(["cut into", *(found.tiles or "nothing" for found in figures)])
        return (
            viewer(one),
            gr.Dropdown(others, value=one.other or next(iter(others), None)),
            rendered("seconds.html", headers=["part", *one.figures], rows=rows),
        )


def _ready() -> Any:
    return gr.Button(interactive=True), gr.Button(interactive=True)


def _name(request: gr.Request) -> str:
    return request.session_hash or ""


def _reporter(progress: gr.Progress) -> Report:
    """Gradio knows by the context whose progress it is; reports come from other threads too, one at a time."""
    context = copy_context()
    return lambda share, text: context.run(progress, share, desc=text)


def _wishes(engines: str, align: str, scale: int, tile: int | None, seed: int, form: str) -> Wishes:
    """A client may send a list where a choice is expected: Gradio lets it pass."""
    options = Options(
        align if align in ALIGNMENTS else None, None if tile is None or tile < 0 else tile, seed=seed or 0
    )
    return Wishes(str(engines), scale if isinstance(scale, int) else None, str(form), options)
