"""What is said of pictures before they are begun: a thumbnail, what they become, how long that takes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.bundle.wiring import Size
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.engines.pictures.pictures import header_size, read_picture
from passionsr_trt.runtime.apps.estimate import about
from passionsr_trt.runtime.apps.serving.engines import EngineChoice
from passionsr_trt.runtime.apps.serving.viewer import rendered
from passionsr_trt.runtime.apps.serving.work import Wishes, check_pixels, told
from passionsr_trt.runtime.core.chain import Chain, rescaled
from passionsr_trt.runtime.core.observing import Plan, plan_of
from passionsr_trt.runtime.core.planning import check_options
from PIL import Image

MOST_ROWS = 8  # pictures that are decoded for it
THUMBNAIL = 96  # pixels a side, at most


@dataclass(frozen=True)
class Row:
    """thumbnail: a `data:` address, empty where there is none."""

    name: str
    text: str
    thumbnail: str = ""


def plans(choice: EngineChoice, paths: Sequence[Path], wishes: Wishes, most: int) -> str:
    """HTML of all pictures; of bad ones what is wrong, of wrong options that alone. most: pixels of a picture."""
    if not paths:
        return ""
    try:
        chain = _chain(choice, wishes)
        scale = wishes.scale or choice.offer(wishes.engines).bundle.model.upscale
    except UserError as error:
        return rendered("plan.html", rows=[], lines=[printable(str(error))])
    rows, works = [], []
    for path in paths[:MOST_ROWS]:
        try:
            check_pixels(path, most)
            thumbnail = _thumbnail(read_picture(path).rgb)
            plan = _plan(chain, header_size(path), scale, wishes)
        except (UserError, MemoryError) as error:
            rows.append(Row(path.name, printable(told(error, path)).removeprefix(f"{path.name}: ")))
            continue
        seconds = choice.seconds(wishes.engines, plan.work)
        rows.append(Row(path.name, f"{plan}{'' if seconds is None else f', {about(seconds)}'}", thumbnail))
        works.append(plan.work)
    lines = [f"and {len(paths) - MOST_ROWS} more"] if len(paths) > MOST_ROWS else []
    seconds = choice.seconds(wishes.engines, sum(works))
    if seconds and len(works) > 1 and not lines:
        lines = [f"together {about(seconds)}"]
    return rendered("plan.html", rows=rows, lines=lines)


def _chain(choice: EngineChoice, wishes: Wishes) -> Chain | None:
    """None for engines that have not been open yet. UserError where they cannot run so."""
    shape = choice.shape(wishes.engines)
    if shape is None:
        return None
    chain = rescaled(shape, wishes.scale)
    check_options(wishes.options, chain)
    return chain


def _plan(chain: Chain | None, size: Size, scale: int, wishes: Wishes) -> Plan:
    if chain is None:
        return Plan(size, (size[0] * scale, size[1] * scale), None, {}, {})
    return plan_of(chain, size, wishes.options)


def _thumbnail(image: Image.Image) -> str:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
