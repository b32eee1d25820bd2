"""The console command: one explicit table of subcommands, each loaded only when it is called for."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

from passionsr_trt.engines.common.arguments import HelpFormatter, missing_extra, refuse_twice, run
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.engines.common.next_step import typed
from passionsr_trt.engines.common.parser import OneLineParser
from passionsr_trt.engines.common.signals import ended_by_signal

# name: (module, function that adds its options, one line of help)
COMMANDS = {
    "import-model": ("passionsr_trt.export.cli", "add_import_model", "published checkpoints → model folder"),
    "import-calibration": (
        "passionsr_trt.export.families.stable_diffusion.commands",
        "add_import_calibration",
        "PassionSR's calibrated checkpoints → calibration",
    ),
    "quantize": (
        "passionsr_trt.export.quantize_cli",
        "add_quantize",
        "model + images → INT8 engines, compared and timed",
    ),
    "calibrate": ("passionsr_trt.export.cli", "add_calibrate", "model folder + images → calibration"),
    "export": ("passionsr_trt.export.cli", "add_export", "model folder + calibration → ONNX bundle"),
    "build-engines": ("passionsr_trt.runtime.cli", "add_build_engines", "ONNX bundle → engines"),
    "predict": ("passionsr_trt.engines.cli", "add_predict", "engines' kernels → predicted time on other GPUs"),
    "infer": ("passionsr_trt.runtime.picture_cli", "add_infer", "images + engines → super-resolved images"),
    "batch": (
        "passionsr_trt.runtime.picture_cli",
        "add_batch",
        "very many images + engines, on Ray, to be killed and resumed",
    ),
    "sensitivity": (
        "passionsr_trt.export.sensitivity_cli",
        "add_sensitivity",
        "which sites cost the most, and a budget",
    ),
    "compare": ("passionsr_trt.runtime.cli", "add_compare", "INT8 engines against the float model"),
    "benchmark": ("passionsr_trt.runtime.cli", "add_benchmark", "engines and baselines side by side"),
    "serve": ("passionsr_trt.runtime.picture_cli", "add_serve", "a local page to drop pictures on"),
    "repository": ("passionsr_trt.runtime.cli", "add_repository", "engines → Triton's model repository"),
    "doctor": ("passionsr_trt.runtime.cli", "add_doctor", "what this machine can build and run"),
}


EPILOG = (
    "Exit status: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted. "
    "Words (part, site, port, LET, …): docs/how-it-works.md#words."
)
HELP = "`passionsr-trt --help` shows the commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. 0 ok, 1 the work failed, 2 usage, 130 interrupted."""
    try:
        with ended_by_signal():
            return _main(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:  # while libraries were loaded
        print("interrupted", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    parser = OneLineParser(
        prog="passionsr-trt",
        description="One-step diffusion super-resolution, from PyTorch to INT8 engines.",
        epilog=EPILOG,
    )
    version = importlib.metadata.version("passionsr-trt")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    wanted = next((word for word in argv if not word.startswith("-")), None)
    if wanted not in COMMANDS and not {"-h", "--help", "--version"} & {*argv}:
        print(f"error: {unknown(argv, wanted)}", file=sys.stderr)
        return 2
    for name, (module, function, text) in COMMANDS.items():
        child = subparsers.add_parser(
            name, help=text, description=text, epilog=EPILOG, formatter_class=HelpFormatter
        )
        if name == wanted:
            refuse_twice(child)
            try:
                getattr(importlib.import_module(module), function)(child)
            except ModuleNotFoundError as error:
                return missing_extra(error)
            except UserError as error:  # two families with one option
                print(f"error: {printable(str(error))}", file=sys.stderr)
                return 1
    return run(parser, argv)


def unknown(argv: Sequence[str], word: str | None) -> str:
    """Of words without a command: the nearest command, `infer` for what may be pictures, or all."""
    every = f"expected one of {', '.join(COMMANDS)}"
    if argv and argv[0].startswith("-") and argv[0] != "--traceback":
        return printable(f"{argv[0]}: no option of passionsr-trt itself; expected a command before it; {HELP}")
    if word is None:
        return f"no command; {every}; {HELP}"
    if near := difflib.get_close_matches(word, COMMANDS, n=1):
        hint = f"did you mean {near[0]}?"
    elif may_be_pictures(word):
        hint = f"did you mean `{typed('infer', *argv)}`?"
    else:
        hint = every
    return printable(f"{word or repr(word)}: no such command; {hint}; {HELP}")


def may_be_pictures(word: str) -> bool:
    """Is it a file or folder that is there, or named as a picture or a clip?"""
    from passionsr_trt.engines.pictures.files import SUFFIXES, suffix_of
    from passionsr_trt.runtime.apps.video.names import READ

    return suffix_of(word) in (*SUFFIXES, *READ) or bool(word and Path(word).exists())


if __name__ == "__main__":
    sys.exit(main())
