"""What a picture's outcome looks like: the reports' slider around the files that the server gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from passionsr_trt.runtime.apps.report_pictures import DIFFERENCE_GAIN, Embedded
from passionsr_trt.runtime.apps.serving.work import Shown
from PIL import Image

TEMPLATES = Path(__file__).parents[1] / "templates"
PLAIN = "plain enlargement"
# the reports' script as a component's: the markup is set anew each time, since Gradio would keep its old elements
SCRIPT = f"""
{(TEMPLATES / "slider.js").read_text(encoding="utf-8")}
const draw = () => {{
  const place = element.querySelector(".viewer");
  place.innerHTML = props.value || "";
  place.querySelectorAll(".slider").forEach(slide);
}};
watch("value", draw);
draw();
"""
FRAME = '<div class="viewer"></div>'
STYLE = (TEMPLATES / "slider.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class SliderView:
    """As the template takes it; the first panel is on the left, the second on the right."""

    name: str
    panels: tuple[Embedded, ...]


def viewer(shown: Shown) -> str:
    """HTML of a good outcome: against the plain enlargement, or what it was compared with."""
    labels = {"other": shown.other, "bicubic": PLAIN}
    left = next(name for name in labels if name in shown.looks)
    right = {"result": shown.wishes.engines, "difference": f"difference ×{DIFFERENCE_GAIN}"}
    order = {left: labels[left], **right, "bicubic": PLAIN}
    panels = [_panel(shown.looks[name], label) for name, label in order.items() if name in shown.looks]
    height, width = shown.size
    note = ""
    if panels[0].width < width:
        note = f"Shown at {panels[0].width / width:.0%} of its size; the file has all {width}×{height} pixels."
    return rendered("viewer.html", view=SliderView(shown.name, tuple(panels)), note=note)


def _panel(path: Path, label: str) -> Embedded:
    with Image.open(path) as image:
        return Embedded(label, f"gradio_api/file={quote(path.as_posix())}", image.width, image.height)


def rendered(template: str, **values: object) -> str:
    """HTML; what is put in is escaped."""
    return environment().get_template(template).render(**values)


@cache
def environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
