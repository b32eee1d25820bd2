"""infer: images + engines → super-resolved images, and what is noted of them, by which --resume leaves them out.

The notes are `batch`'s (batch/ledger.py): of each output its input's content and its own, the engines and the
options. Each is written when its picture is, so that a run may be killed at any moment.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.common.errors import UsageError, UserError, printable
from passionsr_trt.engines.common.temporaries import sweep
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.engines.pictures.files import Found, LeftOut, find_pictures
from passionsr_trt.engines.pictures.pictures import Picture
from passionsr_trt.runtime.apps.batch.ledger import (
    MOST_FILES,
    OWN,
    Entry,
    Ledger,
    Place,
    Stamp,
    configuration,
    local_stamp,
    parse,
    verdict,
)
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.backends.packaged import located
from passionsr_trt.runtime.core.chain import Chain, rescaled
from passionsr_trt.runtime.core.files import by_size, is_file, name_outputs, read_fitting, upscale_all
from passionsr_trt.runtime.core.planning import Options, check_options
from tqdm import tqdm


@dataclass(frozen=True)
class Recipe:
    """How pictures are made, and by what: the options that `infer` and `batch` have in common.

    engines: a folder made by build-engines, or with a `provider` of ONNX Runtime's an ONNX bundle; or a packaged
    network's name, whose engines each machine builds for itself at their first use. scale: times to enlarge, None:
    the model's own. form: `png`, `jpg` or `webp`, of files in a folder. cache: bytes of compiled models that are
    kept, 0: none.
    """

    engines: Path
    options: Options
    scale: int | None = None
    form: str = "png"
    provider: str | None = None
    cache: int = 0
    cuda_graph: bool = True

    def bundle(self) -> EngineBundle | OnnxBundle:
        return (OnnxBundle if self.provider else EngineBundle).load(located(self.engines, bool(self.provider)))

    def configuration(self, bundle: EngineBundle | OnnxBundle) -> str:
        """A digest of all that decides a picture but its input."""
        decisive = {"scale": self.scale, "format": self.form, "provider": self.provider}
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
    """images: files and folders; output: a folder, or a file for one image. streams: pictures at once on a CPU."""

    images: list[Path]
    output: Path
    recipe: Recipe
    threads: int = 0
    streams: int = 1
    resume: bool = False


def infer(request: InferRequest) -> int:
    """Make the pictures that were asked for; 0 where all are there, else 1. What is wrong with one is its line."""
    recipe, output = request.recipe, request.output
    found, left = find_pictures(request.images, output)
    one = is_file(output)
    keep = not one or request.resume  # one picture's folder is not ours to keep notes in
    notes = Notes(output.parent if one else output, recipe.configuration(recipe.bundle()), keep)
    outputs = name_outputs(notes.without_outputs(found, left), output, recipe.form)
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
    if not pairs:
        return 1 if wrong else 0
    failed = upscale_noted(request, pairs, notes)
    count = f"{len(pairs) - failed} of {len(pairs) + len(outputs.refused)}"
    print(printable(f"{count} images written to {output}"))
    return 1 if failed or wrong else 0


def upscale_noted(request: InferRequest, pairs: dict[Path, Path], notes: Notes) -> int:
    """Make each picture and note it, as far as it goes well; how many failed."""
    check_writable(next(iter(pairs.values())).parent)
    for folder in {notes.folder / OWN, *(target.parent for target in pairs.values())}:
        sweep(folder)
    chain = request.recipe.open(request.threads, request.streams)
    failed = 0
    with closing(chain), closing(notes), tqdm(total=len(pairs), desc=chain.label, unit="image") as progress:
        options = request.recipe.options
        read = partial(notes.reading, partial(read_fitting, chain, options))
        for made in upscale_all(chain, by_size(pairs, chain), options, request.streams, read):
            if made.figures:
                progress.set_postfix_str(made.figures, refresh=False)
            progress.update()
            for note in made.notes:
                tqdm.write(printable(f"{made.source}: {note}"), file=sys.stderr)
            if made.error is None:
                notes.note(made.source, pairs[made.source])
                continue
            failed += 1
            message = str(made.error) or "out of memory; a smaller --tile needs less"
            tqdm.write(f"error: {printable(message)}", file=sys.stderr)
    return failed


AGAIN = {  # why a picture whose output is there is made again
    "engines": "by other engines or options",
    "source": "of a picture that has changed",
    "output": "changed or damaged since",
    "unknown": "without a note of how it was made",
}


class Notes:
    """Of the pictures in one output folder. config: the engines' and the options' digest (ledger.configuration).

    keep: whether to note what is made. UserError, when they are first asked for, where notes cannot be read.
    """

    def __init__(self, folder: Path, config: str, keep: bool) -> None:
        self.folder, self.config, self.keep = folder, config, keep
        self.ledger = Ledger(Place(str(folder)))
        self.files: list[str] = []  # written and not gathered yet
        self.read: dict[Path, tuple[Stamp, str]] = {}  # inputs, as they were when they were decoded

    @cached_property
    def known(self) -> dict[str, bytes]:
        """Output's key → its latest line."""
        try:
            return self.ledger.read()
        except OSError as error:
            raise UserError(f"{self.folder / OWN}: cannot be read ({error.strerror})", "expected notes") from None

    def without_outputs(self, found: list[Found], left: LeftOut) -> list[Found]:
        """Without pictures of a folder that are an earlier run's outputs, where both are one folder."""
        kept = []
        within = os.path.realpath(self.folder).rstrip(os.sep) + os.sep
        for picture in found:
            mine = picture.walked and os.path.realpath(picture.path).startswith(within)
            done = self._done(picture.path) if mine else None
            if done is not None and local_stamp(picture.path) == done.output:
                left.kinds["made"] += 1
            else:
                kept.append(picture)
        return kept

    def waiting(self, pairs: dict[Path, Path]) -> tuple[dict[Path, Path], Counter[str]]:
        """The pairs that are to be done, and of those whose output is there why."""
        left, why = {}, Counter[str]()
        for source, target in pairs.items():
            reason = self._reason(source, target)
            if reason is not None:
                left[source] = target
                why.update([reason] if reason else [])
        return left, why

    def _reason(self, source: Path, target: Path) -> str | None:
        """Of `AGAIN`, nothing where there is no output, None where it is done."""
        output, done = local_stamp(target), self._done(target)
        if output is None:
            return ""
        if done is None:
            return "unknown"
        if done.config != self.config:
            return "engines"
        stamp = local_stamp(source) or Stamp(-1, "")
        if verdict(done, self.config, stamp, output) == "done":
            return None
        try:  # what was copied or moved has other times
            if stamp.size != done.source.size or sha256(source) != done.source_sha256:
                return "source"
            if output.size != done.output.size or sha256(target) != done.sha256:
                return "output"
        except OSError:
            return "source"
        return None

    def _done(self, target: Path) -> Entry | None:
        """The note of a file in the folder."""
        line = self.known.get(self._key(target))
        return parse(line) if line else None

    def _key(self, target: Path) -> str:
        """Its place in the folder, links followed; of what links lead out of it, no note's."""
        place = f"{os.path.realpath(target.parent)}/{target.name}"
        return os.path.relpath(place, os.path.realpath(self.folder)).replace(os.sep, "/")

    def reading(self, read: Callable[[Path], Picture], source: Path) -> Picture:
        """`read`, and what was read is kept in mind; in several threads."""
        stamp = local_stamp(source)
        picture = read(source)
        if self.keep and stamp is not None:
            with suppress(OSError):
                self.read[source] = stamp, sha256(source)
        return picture

    def note(self, source: Path, target: Path) -> None:
        """A picture was written. Nothing is noted where its input changed meanwhile; a full disk is said once."""
        stamp, digest = self.read.pop(source, (None, ""))
        if not self.keep or stamp is None or local_stamp(source) != stamp:
            return
        try:
            made = target.stat()
            at, content = (made.st_size, str(made.st_mtime_ns)), sha256(target)
            done = Entry(self._key(target), self.config, stamp.size, stamp.mark, digest, *at, content)
            self.files.append(self.ledger.write([done]))
            if len(self.files) >= MOST_FILES:
                self.gather()
        except (UserError, OSError, ValueError) as error:
            self.keep = False
            tqdm.write(printable(f"{error}: --resume will do again what follows"), file=sys.stderr)

    def close(self) -> None:
        self.gather()

    def gather(self) -> None:
        """Many files into one, whose lines another process may have gathered before."""
        files, self.files = self.files, []
        with suppress(UserError, OSError):
            everything = self.ledger.files()
            if many := everything if len(everything) > MOST_FILES else files:
                self.ledger.gather(many)


def resumed(total: int, left: int, why: Counter[str]) -> list[str]:
    """Lines of what --resume found."""
    lines = [f"{total - left} of {total} are there already; skipped"] if left < total else []
    if why:
        reasons = ", ".join(f"{count} {AGAIN[reason]}" for reason, count in sorted(why.items()))
        lines.append(f"{sum(why.values())} of {total} are there and done again: {reasons}")
    return lines
