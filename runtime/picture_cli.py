"""The subcommands that make pictures: infer, batch and serve. Heavy imports wait until one is run."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.engines.common.arguments import (
    MOST_THREADS,
    colour,
    factor,
    gibibytes,
    mebibytes,
    megapixels,
    not_empty,
    positive,
    some_input,
    some_path,
    whole,
    written,
)
from passionsr_trt.runtime.apps.video.names import clips_of, no_clip
from passionsr_trt.runtime.apps.video.options import ClipOptions
from passionsr_trt.runtime.backends.packaged import DEFAULT, listed
from passionsr_trt.runtime.cli import filled
from passionsr_trt.runtime.clip_cli import add_clip_options
from passionsr_trt.runtime.core.chain import PROVIDERS

if TYPE_CHECKING:
    from passionsr_trt.runtime.apps.infer import Recipe


def add_infer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="*",
        type=some_input,
        help="images, or folders of images, with their sub-folders (links to folders are not followed); or clips",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=some_path,
        help="folder, which gets the sub-folders too, or file for one image or clip (default: beside each)",
    )
    parser.add_argument(
        "--suffix",
        type=name_suffix,
        help="added to the name of what is written beside an image (default: _x4, or how many times it is larger)",
    )
    parser.add_argument(
        "--list", action="store_true", help="name the engines that come with the package, and stop"
    )
    _add_engines(parser)
    _add_format(parser)
    add_picture_options(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip images whose output these engines and options made from the same content; the notes lie in "
        "OUTPUT/.passionsr-batch, where batch reads them too, or in the given folder. Outputs without a note are "
        "made again",
    )
    parser.add_argument("--threads", type=whole(0, MOST_THREADS), default=0, help="CPU threads, 0: all")
    parser.add_argument(
        "--streams",
        type=whole(1, MOST_THREADS),
        default=1,
        metavar="N",
        help="OpenVINO: pictures at once, or tiles of a large one, each by its share of the threads: more "
        "pictures a minute, the first one later, and N times the memory for activations",
    )
    add_clip_options(parser)
    parser.set_defaults(run=_run_infer)


def _add_engines(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "--engines",
        type=some_input,
        default=DEFAULT,
        help=f"folder made by build-engines{more}; or a packaged network's name (infer --list)",
    )


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("png", "jpg", "webp"),
        help="of files in a folder (default: as the image came, JPEG, WebP or PNG; of others PNG); JPEG and WebP "
        "of quality 95",
    )


def name_suffix(text: str) -> str:
    """An argparse type: what is added to a file's name."""
    if len(text) > 40 or not text.isprintable() or set(text) & set("/\\:"):
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: expected at most 40 characters of a file's name")
    return text


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """What `infer` and `batch` have in common: how pictures are made, and by what."""
    parser.add_argument(
        "--align", choices=ALIGNMENTS, help="colour fix towards the input (default: chosen for the model)"
    )
    parser.add_argument(
        "--tile",
        type=whole(0),
        help="side of square tiles in output pixels, 0: never tile (default: tile above 896×896 pixels, or above "
        "the engines' largest size; the shape that computes least, of at most 640×640 pixels, fewer where memory "
        "is short)",
    )
    parser.add_argument(
        "--memory",
        type=gibibytes,
        help="GiB that may be used, of the GPU for GPU engines (default: all that is free there)",
    )
    parser.add_argument(
        "--overlap",
        type=whole(0),
        help="overlap of tiles in output pixels (default: as far as the model sees, 64 for most); more is slower",
    )
    parser.add_argument(
        "--batch",
        type=whole(1),
        help="tiles at once, fewer where memory is short or some would be left over (default: as many as GPU "
        "engines were built for, else 1; on a CPU more take memory and gain nothing)",
    )
    parser.add_argument(
        "--scale",
        type=whole(1, 8),
        help="times to enlarge, 1 to 8, where the model works on the enlarged picture (default: the model's own)",
    )
    parser.add_argument(
        "--outscale",
        type=factor,
        metavar="F",
        help="times that the result is larger than the image, 1 to 16, 2.5 too: what the model made is resized by "
        "Lanczos (default: as the model made it)",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of the noise, for models that draw some")
    _add_running_options(parser)


def _add_running_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--background",
        type=colour,
        default="white",
        help="colour behind transparency in a JPEG: a name or #rrggbb",
    )
    parser.add_argument(
        "--provider",
        choices=tuple(PROVIDERS),
        help="run an ONNX bundle under ONNX Runtime instead: --engines names a folder made by export",
    )
    parser.add_argument(
        "--cache-size",
        type=gibibytes,
        default="5",
        metavar="GIB",
        help="OpenVINO: compiled models kept in the user's cache folder or $PASSIONSR_CACHE, least recently used "
        "out; Stable Diffusion 2.1 takes about 1 GiB per size of picture",
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="OpenVINO: keep and take no compiled models; a slower start"
    )
    parser.add_argument(
        "--no-cuda-graph", action="store_true", help="GPU: launch kernels one by one; slower, for finding faults"
    )


def _run_infer(arguments: argparse.Namespace) -> int:
    if arguments.list:
        for line in listed():
            print(line)
        return 0
    from passionsr_trt.runtime.apps.infer import InferRequest, infer

    wanted = filled(ClipOptions, arguments)
    clips = clips_of(arguments.images)
    if clips:
        from passionsr_trt.runtime.apps.video.command import ClipsRequest, enlarge_clips

        recipe = recipe_of(arguments)
        return enlarge_clips(filled(ClipsRequest, arguments, recipe=recipe, clips=clips, wanted=wanted))
    if differing := [entry.name for entry in fields(wanted) if getattr(wanted, entry.name) != entry.default]:
        raise no_clip(*differing)
    return infer(filled(InferRequest, arguments, recipe=recipe_of(arguments)))


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Of `add_picture_options`' options."""
    from passionsr_trt.runtime.apps.infer import Recipe
    from passionsr_trt.runtime.core.planning import Options

    return filled(
        Recipe,
        arguments,
        options=filled(Options, arguments),
        form=arguments.format,
        cache=cache_of(arguments),
        cuda_graph=not arguments.no_cuda_graph,
    )


def cache_of(arguments: argparse.Namespace) -> int:
    """Bytes of compiled models that are kept."""
    return 0 if arguments.no_cache else arguments.cache_size


def add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        type=not_empty,
        metavar="IN",
        help="pictures and folders, sub-folders too: paths or URLs of fsspec's",
    )
    parser.add_argument(
        "output", type=written, metavar="OUT", help="folder for the outputs: a path or a URL of fsspec's"
    )
    parser.add_argument(
        "--list", action="append", type=Path, default=[], metavar="FILE", help="a list of pictures, one per line"
    )
    _add_engines(parser, "; at that path on every machine")
    _add_format(parser)
    add_picture_options(parser)
    _add_pool_options(parser)
    parser.set_defaults(run=_run_batch)


def _add_pool_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=whole(1, MOST_THREADS),
        help="processes, each with its own engines in memory (default: one per GPU, else one per 4 cores)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1, MOST_THREADS),
        help="CPU threads per worker (default: this machine's cores shared out, 4 on another's cluster)",
    )
    parser.add_argument(
        "--gpus",
        type=positive,
        help="GPUs per worker, 0.5: two share one (default: 1 for engines that need one, else none)",
    )
    parser.add_argument(
        "--group",
        type=whole(1, 1024),
        default=8,
        metavar="N",
        help="pictures that a worker is handed at once, all done again where it dies; more is less to write",
    )
    parser.add_argument(
        "--tries",
        type=whole(1, 100),
        default=3,
        help="workers that may die at a picture before it counts as failed",
    )
    parser.add_argument(
        "--address",
        help="Ray cluster: HOST:PORT, ray://HOST:PORT or auto (default: start one on this machine alone)",
    )


def _run_batch(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.batch.job import BatchRequest, batch

    return batch(filled(BatchRequest, arguments, recipe=recipe_of(arguments), lists=arguments.list))


def add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engines",
        nargs="+",
        type=Path,
        default=[DEFAULT],
        help="folders made by build-engines, or by export for ONNX Runtime; the first is chosen at the start "
        "(default: what comes with the package)",
    )
    parser.add_argument("--port", type=whole(1, 65_535), default=7860, help="where the page is")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; any but this machine's own is said"
    )
    parser.add_argument(
        "--no-browser", dest="browser", action="store_false", help="open no browser; without a display none is"
    )
    parser.add_argument("--share", action="store_true", help="open a public address through Gradio's servers")
    parser.add_argument(
        "--max-upload", type=mebibytes, default="64", metavar="MIB", help="size of an uploaded file, at most"
    )
    parser.add_argument(
        "--max-pixels",
        type=megapixels,
        default="16",
        metavar="MP",
        help="megapixels of an uploaded picture, at most",
    )
    parser.add_argument("--background", type=colour, default="white", help="as of infer")
    parser.add_argument("--threads", type=whole(0, MOST_THREADS), default=0, help="CPU threads, 0: all")
    parser.add_argument(
        "--provider", choices=tuple(PROVIDERS), default="cpu", help="ONNX Runtime's, for folders made by export"
    )
    parser.add_argument(
        "--cache-size",
        type=gibibytes,
        default="5",
        metavar="GIB",
        help="as of infer: compiled models that are kept",
    )
    parser.add_argument("--no-cache", action="store_true", help="as of infer: keep and take no compiled models")
    parser.set_defaults(run=_run_serve)


def _run_serve(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.serving.app import ServeRequest, serve

    return serve(filled(ServeRequest, arguments, cache=cache_of(arguments)))
