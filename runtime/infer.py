"""infer: images + engines → super-resolved images. Also run as `python runtime/infer.py`."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

from passionsr_trt.engines.bundle.arguments import MOST_THREADS, colour, gibibytes, some_path, whole
from passionsr_trt.engines.bundle.errors import UsageError, printable
from passionsr_trt.engines.bundle.manifest import check_writable
from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.runtime.chain import PROVIDERS, rescaled
from passionsr_trt.runtime.files import by_size, upscale_all
from passionsr_trt.runtime.images import SUFFIXES, WRITABLE, check_output, list_images, opened
from passionsr_trt.runtime.loading import load_engines
from passionsr_trt.runtime.main import HelpFormatter, run
from passionsr_trt.runtime.planning import Options, check_options
from tqdm import tqdm


def add_infer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, help="images, or folders of images")
    parser.add_argument("-o", "--output", type=some_path, required=True, help="folder, or file for one image")
    parser.add_argument("--engines", type=Path, required=True, help="folder made by build-engines")
    add_picture_options(parser)
    parser.add_argument("--resume", action="store_true", help="skip images whose output is there already")
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
        "--align", choices=ALIGNMENTS, help="colour fix towards the input; by itself the one that suits the model"
    )
    parser.add_argument(
        "--tile",
        type=whole(0),
        help="side of square tiles in output pixels, 0: never; by itself above 896×896 pixels "
        "or what engines take, shaped to compute least, at most 640×640 pixels, less where memory is short",
    )
    parser.add_argument(
        "--memory", type=gibibytes, help="GiB that may be taken, on a GPU of its own; by itself what is free there"
    )
    parser.add_argument(
        "--overlap",
        type=whole(0),
        help="overlap of tiles in output pixels (default: as far as the model sees, 64 for most); more is slower",
    )
    parser.add_argument(
        "--batch",
        type=whole(1),
        help="tiles at once, fewer where memory is short or some would be left over; by itself as many as GPU "
        "engines were built for, else 1: more take memory and gain nothing on a CPU",
    )
    parser.add_argument(
        "--scale",
        type=whole(1, 8),
        help="times to enlarge, 1 to 8, where the model works on the enlarged picture; by itself the model's own",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of the noise, for models that draw some")
    parser.add_argument("--format", choices=("png", "jpg", "webp"), default="png", help="files in a folder")
    parser.add_argument(
        "--background", type=colour, default="white", help="what JPEG shows for transparency: a name or #rrggbb"
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
        "out; Stable Diffusion 2.1 takes about 1 GiB a size of picture",
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


def plan_outputs(images: list[Path], arguments: argparse.Namespace) -> dict[Path, Path]:
    """Input → output. UsageError where two inputs would write one file."""
    output: Path = arguments.output
    if output.suffix.lower() in WRITABLE and not output.is_dir():
        if len(images) > 1:
            raise UsageError(f"{output}: one file for {len(images)} images", "expected a folder")
        check_output(output)
        return {images[0]: output}
    if (output.exists() and not output.is_dir()) or output.suffix.lower() in SUFFIXES:
        raise UsageError(f"{output}: is no folder", "expected one, or a name ending in .png, .jpg or .webp")
    pairs = {image: output / f"{image.stem}.{arguments.format}" for image in images}
    if len(set(pairs.values())) < len(pairs):
        names = [path.name for path in pairs.values()]
        twice = next(name for name in names if names.count(name) > 1)
        sources = ", ".join(str(image) for image, path in pairs.items() if path.name == twice)
        raise UsageError(f"{sources}: would all become {twice}", "expected different names", "run them apart")
    return pairs


def run_infer(arguments: argparse.Namespace) -> int:
    options = picture_options(arguments)
    pairs = plan_outputs(list_images(arguments.images), arguments)
    for source, target in pairs.items():
        if os.path.realpath(source) == os.path.realpath(target):
            raise UsageError(f"{target}: would overwrite its own input", "expected another folder")
    if arguments.resume:
        waiting = {source: target for source, target in pairs.items() if not is_whole(target)}
        if skipped := len(pairs) - len(waiting):
            print(f"{skipped} of {len(pairs)} are there already; skipped")
        pairs = waiting
        if not pairs:
            return 0
    first = next(iter(pairs.values()))
    check_writable(first.parent)
    chain = load_engines(
        arguments.engines,
        arguments.threads,
        arguments.provider,
        cuda_graph=not arguments.no_cuda_graph,
        cache=0 if arguments.no_cache else arguments.cache_size,
        streams=arguments.streams,
    )
    failed = 0
    with closing(chain), tqdm(total=len(pairs), desc=chain.label, unit="image") as progress:
        check_options(options, chain)
        chain = rescaled(chain, arguments.scale)
        files = upscale_all(chain, by_size(pairs, chain), options, progress, arguments.streams)
        for _source, error in files:
            progress.update()
            if error is not None:
                failed += 1
                message = str(error) or "out of memory; a smaller --tile needs less"
                tqdm.write(f"error: {printable(message)}", file=sys.stderr)
    print(printable(f"{len(pairs) - failed} of {len(pairs)} images written to {arguments.output}"))
    return 1 if failed else 0


def is_whole(target: Path) -> bool:
    """Is there a picture that an earlier run finished? What is truncated, empty or no picture is done again."""
    try:
        with opened(target) as image:
            image.load()
    except Exception:  # whatever is wrong with it
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="infer.py", description=__doc__, formatter_class=HelpFormatter)
    add_infer(parser)
    return run(parser, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
