"""How the page looks and takes files: where Gradio's own would fetch, leave or hide something."""

from pathlib import Path
from typing import Any

import gradio as gr
from passionsr_trt.runtime.apps.serving.viewer import STYLE as SLIDER_STYLE

# the button to add more holds an input in a button, which screen readers cannot tell apart
STYLE = (
    """
:focus-visible { outline: 3px solid #2563eb !important; outline-offset: 2px; }
button[role=tab].selected { color: var(--body-text-color) !important; font-weight: 600; }
#pictures .icon-button:has(input) { display: none; }
#examples button { flex-wrap: nowrap; padding-inline: .5rem; }
#status .progress-level-inner { padding-inline: .75rem; }
#examples img { width: 2.75rem; height: 2.25rem; object-fit: cover; border-radius: .25rem; }
#plan ul { list-style: none; margin: 0; padding: 0; }
#plan li { display: flex; gap: .75rem; align-items: center; padding: .25rem 0; overflow-wrap: anywhere; }
#plan:not(:has(li)) { display: none; }
#plan img { width: 4.5rem; max-height: 6rem; object-fit: contain; flex: none; margin: 0; }
#viewer select { appearance: auto; }
#compare { align-self: end; }
#seconds table { width: 100%; border-collapse: collapse; font-size: .875rem; }
#seconds caption { text-align: left; padding-bottom: .25rem; color: var(--body-text-color-subdued); }
#seconds :is(th, td) { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
#seconds th { font-weight: 600; }
#seconds tbody > tr > * { border-top: 1px solid var(--border-color-primary); }
#engines input, #other input { text-overflow: ellipsis; padding-right: 1.75rem; }
#status textarea::placeholder { color: var(--body-text-color-subdued); }
#viewer { --page: var(--background-fill-primary); --soft: var(--body-text-color-subdued); --accent: #2563eb; }
"""
    + SLIDER_STYLE
)


def theme() -> gr.themes.Base:
    """The reader's own fonts, so that nothing is fetched, and colours that can be told apart."""
    return gr.themes.Default(
        primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
    )


def uploads(**options: Any) -> gr.File:
    """A File that gives paths. Gradio's own leaves an empty file behind, and fetches an address that it is given.

    Changed on the object: of a subclass Gradio would write a stub beside this file.
    """
    component = gr.File(file_count="multiple", **options)
    move = component.async_move_resource_to_block_cache

    def paths(payload: Any) -> list[str]:
        return [] if payload is None else [file.path for file in payload.root]

    async def uploaded_only(url_or_file_path: str | Path | None) -> str | None:
        if "://" in str(url_or_file_path):
            raise gr.Error("expected an uploaded file, not an address", print_exception=False)
        return await move(url_or_file_path)

    component.preprocess = paths  # type: ignore[method-assign]
    component.async_move_resource_to_block_cache = uploaded_only  # type: ignore[method-assign]
    return component
