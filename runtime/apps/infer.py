"""infer: images + engines → super-resolved images, in an output folder or beside the images."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.common.errors import UsageError, UserError, printable
from passionsr_trt.engines.common.temporaries import sweep
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.engines.pictures.files import Found, LeftOut, find_pictures
from passionsr_trt.engines.pictures.pictures import Picture, header_size
from passionsr_trt.runtime.apps.batch.ledger import OWN, configuration
from passionsr_trt.runtime.apps.notes import NotesByPicture, resumed
from passionsr_trt.runtime.apps.progress import Progress
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.backends.packaged import located
from passionsr_trt.runtime.core.chain import Chain, rescaled
from passionsr_trt.runtime.core.files import by_size, read_fitting, upscale_all
from passionsr_trt.runtime.core.outputs import Outputs, beside, name_outputs, named_as_output, source_stem
from passionsr_trt.runtime.core.planning import Options, check_options


@dataclass(frozen=True)
class Recipe:
    """How pictures are made, and by what: the options that `infer` and `batch` have in common.

    engines: a folder made by build-engines, or with a `provider` of ONNX Runtime's an ONNX bundle; or a packaged
    network's name, whose engines each machine builds for itself at their first use. scale: times to enlarge, None:
    the model's own. form: `png`, `jpg` or `webp`, of files in a folder, None: each its own. cache: bytes of
    compiled models that are kept, 0: none.
    """

    engines: Path
    options: Options
    scale: int | None = None
    form: str | None = None
    provider: str | None = None
    cache: int = 0
    cuda_graph: bool = True

    def bundle(self) -> EngineBundle | OnnxBundle:
        return (OnnxBundle if self.provider else EngineBundle).load(located(self.engines, bool(self.provider)))

    def enlarges(self, bundle: EngineBundle | OnnxBundle) -> float:
        """How many times larger a result is than its picture."""
        return self.options.outscale or self.scale or bundle.model.upscale

    def configuration(self, bundle: EngineBundle | OnnxBundle) -> str:
        """A digest of all that decides a picture but its input."""
        # without one format for all, an output's name says its own
        decisive = {"scale": self.scale, "format": self.form or "png", "provider": self.provider}
        return configuration(bundle, asdict(self.options) | decisive)

    def open(self, threads: int, streams: int = 1) -> Chain:
        """The chain, loaded; UsageError where it cannot be run with these options."""
        chain = load_engines(
            located(self.engines, bool(self.provider)),
            threads,
            self.provider,
            cuda_graph=self.cuda_graph,
            cache=self.cache,
            streams=streams,
        )
        try:
            check_options(self.options, chain)
            return rescaled(chain, self.scale)
        except BaseException:
            chain.close()
            raise


@dataclass(frozen=True)
class InferRequest:
    """images: files and folders; output: a folder, or a file for one image; None: beside each image, its name and
    `suffix` (None: `_x4` by the scale). streams: pictures at once on a CPU.
    """

    images: list[Path]
    output: Path | None
    recipe: Recipe
    threads: int = 0
    streams: int = 1
    resume: bool = False
    suffix: str | None = None


def infer(request: InferRequest) -> int:
    """Make the pictures that were asked for; 0 where all are there, else 1. What is wrong with one is its line."""
    if not request.images:
        raise UsageError("no images", "expected images or folders of them", "infer --list names engines")
    if request.output is not None and request.suffix is not None:
        raise UsageError(f"--suffix {request.suffix} with -o", "expected one of them")
    recipe, output = request.recipe, request.output
    found, left = find_pictures(request.images, output)
    bundle = recipe.bundle()
    suffix = f"_x{recipe.enlarges(bundle):g}" if request.suffix is None else request.suffix
    notes = NotesByPicture(found, output, recipe.configuration(bundle), request.resume)
    found, unnoted = without_outputs(found, left, notes, suffix, output is None)
    if output is None:
        outputs = spared(beside(found, recipe.form, suffix), unnoted)
    else:
        outputs = name_outputs(found, output, recipe.form)
    for line in filter(None, (left.line(), outputs.line())):
        print(printable(line), file=sys.stderr)
    pairs, wrong = outputs.pairs, [*left.folders, *outputs.refused]
    if not pairs and outputs.refused:
        raise UsageError(outputs.refused[0])
    for line in wrong:
        print(printable(f"error: {line}"), file=sys.stderr)
    if request.resume:
        pairs, why = notes.waiting(pairs)
        for line in resumed(len(outputs.pairs), len(pairs), why):
            print(line)
    total = len(pairs) + len(outputs.refused)
    if output is None:
        for line in without_unwritable(pairs):
            wrong.append(line)
            print(printable(f"error: {line}"), file=sys.stderr)
    if not pairs:
        return 1 if wrong else 0
    failed = upscale_noted(request, pairs, notes)
    if failed == len(pairs):
        print("no image written")
        return 1
    count = f"{len(pairs) - failed} of {total}"
    one = output or (next(iter(pairs.values())) if len(pairs) == 1 else None)
    print(printable(f"{count} images written {'beside their originals' if one is None else f'to {one}'}"))
    return 1 if failed or wrong else 0


def without_outputs(
    found: list[Found], left: LeftOut, notes: NotesByPicture, suffix: str, beside_them: bool
) -> tuple[list[Found], set[str]]:
    """Without pictures of a folder that earlier runs made: by the notes, and by their names where outputs lie
    beside pictures now, or where the picture that one was made from lies beside it.

    The others are the real paths of those of which the name alone says so.
    """
    sources = {(picture.path.parent, picture.path.stem) for picture in found}
    kept, unnoted = [], set()
    for picture in found:
        source = (picture.path.parent, source_stem(picture.path.stem, suffix))
        if notes.made(picture):
            left.kinds["made"] += 1
        elif picture.walked and named_as_output(picture.path.stem, suffix) and (beside_them or source in sources):
            left.kinds["enlarged"] += 1
            unnoted.add(os.path.realpath(picture.path))
        else:
            kept.append(picture)
    return kept, unnoted


def spared(outputs: Outputs, unnoted: set[str]) -> Outputs:
    """Without those that would be written over one that may be the user's own picture."""
    for source, target in list(outputs.pairs.items()):
        if os.path.realpath(target) in unnoted:
            del outputs.pairs[source]
            outputs.refused.append(
                f"{source}: {target} is there, and no note says that it was made; expected that name to be free; "
                "--suffix or -o gives another"
            )
    return outputs


def without_unwritable(pairs: dict[Path, Path]) -> list[str]:
    """A line of each folder that takes no file; pictures that would be written there are taken out of `pairs`."""
    lines = []
    for folder in dict.fromkeys(target.parent for target in pairs.values()):
        try:
            check_writable(folder)
        except UserError as error:
            lines.append(f"{error}; -o FOLDER writes elsewhere")
            for source in [source for source, target in pairs.items() if target.parent == folder]:
                del pairs[source]
    return lines


def upscale_noted(request: InferRequest, pairs: dict[Path, Path], notes: NotesByPicture) -> int:
    """Make each picture and note it, as far as it goes well; how many failed."""
    if request.output is not None:
        check_writable(next(iter(pairs.values())).parent)
    for folder in {*(one.folder / OWN for one in notes.all), *(target.parent for target in pairs.values())}:
        sweep(folder)
    chain = request.recipe.open(request.threads, request.streams)
    options = request.recipe.options
    sizes = {source: header_size(source) for source in pairs}
    weights = {source: max(1, height * width) for source, (height, width) in sizes.items()}

    def read(source: Path) -> Picture:
        return notes.of[source].reading(partial(read_fitting, chain, options), source)

    with closing(chain), closing(notes), Progress(chain.title, weights, request.streams) as progress:
        ordered_pairs = by_size(pairs, chain, sizes)

        def wrote(source: Path) -> None:
            notes.of[source].note(source, pairs[source])

        try:
            for made in upscale_all(
                chain, ordered_pairs, options, request.streams, read, progress.observer, wrote
            ):
                for note in made.notes:
                    progress.say(f"{made.source}: {note}")
                if made.error is not None:
                    line = str(made.error) or "out of memory; a smaller --tile needs less"
                    progress.say(f"error: {line if str(made.source) in line else f'{made.source}: {line}'}")
                progress.ended(made.source, failed=made.error is not None)
        except KeyboardInterrupt:
            if any(note.keep for note in notes.all):
                progress.say("the same command with --resume makes what is missing")
            raise
    return progress.failed
