"""infer: images + engines → super-resolved images. Also run as `python runtime/infer.py`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.engines.common.arguments import (
    MOST_THREADS,
    colour,
    gibibytes,
    refuse_twice,
    some_input,
    some_path,
    whole,
)
from passionsr_trt.engines.common.errors import UsageError, printable
from passionsr_trt.engines.common.temporaries import sweep
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.engines.pictures.files import find_pictures
from passionsr_trt.runtime.apps.batch.ledger import configuration
from passionsr_trt.runtime.apps.batch.places import OWN
from passionsr_trt.runtime.apps.resuming import Notes, resumed
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.core.chain import PROVIDERS, rescaled
from passionsr_trt.runtime.core.files import by_size, upscale_all
from passionsr_trt.runtime.core.planning import Options, check_options
from passionsr_trt.runtime.main import HelpFormatter, run
from passionsr_trt.runtime.pictures.outputs import is_file, plan_outputs
from tqdm import tqdm


def add_infer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        type=some_input,
        help="images, or folders of images, with their sub-folders (links to folders are not followed)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=some_path,
        required=True,
        help="folder, which gets the sub-folders too, or file for one image",
    )
    parser.add_argument("--engines", type=Path, required=True, help="folder made by build-engines")
    add_picture_options(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip images whose output these engines and options made from the same content; the notes lie in "
        "OUTPUT/.passionsr-batch, where batch reads them too. Outputs without a note are made again",
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
    parser.set_defaults(run=run_infer)


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
    parser.add_argument("--seed", type=whole(0), default=0, help="of the noise, for models that draw some")
    parser.add_argument("--format", choices=("png", "jpg", "webp"), default="png", help="files in a folder")
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


def picture_options(arguments: argparse.Namespace) -> Options:
    return Options(
        arguments.align,
        arguments.tile,
        arguments.overlap,
        arguments.seed,
        arguments.memory,
        arguments.batch,
        arguments.background,
    )


def decisive(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what a picture is."""
    names = ("align", "tile", "overlap", "seed", "memory", "batch", "scale", "format", "background", "provider")
    return {name: getattr(arguments, name) for name in names}


def run_infer(arguments: argparse.Namespace) -> int:
    options, output = picture_options(arguments), arguments.output
    found, left = find_pictures(arguments.images, output)
    bundle = (OnnxBundle if arguments.provider else EngineBundle).load(arguments.engines)
    one = is_file(output)
    keep = not one or arguments.resume  # one picture's folder is not ours to keep notes in
    notes = Notes(output.parent if one else output, configuration(bundle, decisive(arguments)), keep)
    planned = plan_outputs(notes.without_outputs(found, left), output, arguments.format)
    for line in filter(None, (left.line(), planned.line())):
        print(printable(line), file=sys.stderr)
    pairs, wrong = planned.pairs, [*left.folders, *planned.refused]
    if not pairs and planned.refused:
        raise UsageError(planned.refused[0])
    for line in wrong:
        print(printable(f"error: {line}"), file=sys.stderr)
    if arguments.resume:
        pairs, why = notes.waiting(pairs)
        for line in resumed(len(planned.pairs), len(pairs), why):
            print(line)
    if not pairs:
        return 1 if wrong else 0
    check_writable(next(iter(pairs.values())).parent)
    for folder in {notes.folder / OWN, *(target.parent for target in pairs.values())}:
        sweep(folder)
    chain = load_engines(
        arguments.engines,
        arguments.threads,
        arguments.provider,
        cuda_graph=not arguments.no_cuda_graph,
        cache=0 if arguments.no_cache else arguments.cache_size,
        streams=arguments.streams,
    )
    failed = 0
    with closing(chain), closing(notes), tqdm(total=len(pairs), desc=chain.label, unit="image") as progress:
        check_options(options, chain)
        chain = rescaled(chain, arguments.scale)
        files = upscale_all(chain, by_size(pairs, chain), options, progress, arguments.streams, notes.reading)
        for source, error in files:
            progress.update()
            if error is None:
                notes.note(source, pairs[source])
                continue
            failed += 1
            message = str(error) or "out of memory; a smaller --tile needs less"
            tqdm.write(f"error: {printable(message)}", file=sys.stderr)
    count = f"{len(pairs) - failed} of {len(pairs) + len(planned.refused)}"
    print(printable(f"{count} images written to {output}"))
    return 1 if failed or wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="infer.py", description=__doc__, formatter_class=HelpFormatter)
    refuse_twice(parser)
    add_infer(parser)
    return run(parser, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
