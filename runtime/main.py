"""The console command: one explicit table of subcommands, each loaded only when it is called for."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from passionsr_trt.engines.common.arguments import refuse_twice
from passionsr_trt.engines.common.errors import UsageError, UserError, printable
from passionsr_trt.engines.common.extras import EXTRAS, install

# name: (module, function that adds its options, one line of help)
COMMANDS = {
    "import-model": ("passionsr_trt.export.cli", "add_import_model", "published checkpoints → model folder"),
    "import-calibration": (
        "passionsr_trt.export.families.stable_diffusion.commands",
        "add_import_calibration",
        "PassionSR's calibrated checkpoints → calibration",
    ),
    "calibrate": ("passionsr_trt.export.cli", "add_calibrate", "model folder + images → calibration"),
    "export": ("passionsr_trt.export.cli", "add_export", "model folder + calibration → ONNX bundle"),
    "build-engines": ("passionsr_trt.runtime.cli", "add_build_engines", "ONNX bundle → engines"),
    "predict": ("passionsr_trt.engines.cli", "add_predict", "engines' kernels → predicted time on other GPUs"),
    "infer": ("passionsr_trt.runtime.cli", "add_infer", "images + engines → super-resolved images"),
    "batch": (
        "passionsr_trt.runtime.cli",
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
    "serve": ("passionsr_trt.runtime.cli", "add_serve", "a local page to drop pictures on"),
    "repository": ("passionsr_trt.runtime.cli", "add_repository", "engines → Triton's model repository"),
    "doctor": ("passionsr_trt.runtime.cli", "add_doctor", "what this machine can build and run"),
}


EPILOG = (
    "Exit status: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted. "
    "Words (part, site, port, LET, …): docs/how-it-works.md#words."
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.required or action.default in (None, [], False) or isinstance(action.default, tuple):
            return action.help
        return super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. 0 ok, 1 the work failed, 2 usage, 130 interrupted."""
    try:
        return _main(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:  # while libraries were loaded
        print("interrupted", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="passionsr-trt",
        description="One-step diffusion super-resolution, from PyTorch to INT8 engines.",
        epilog=EPILOG,
    )
    version = importlib.metadata.version("passionsr-trt")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in argv if not word.startswith("-")), None)
    for name, (module, function, text) in COMMANDS.items():
        child = subparsers.add_parser(
            name, help=text, description=text, epilog=EPILOG, formatter_class=HelpFormatter
        )
        if name == wanted:
            refuse_twice(child)
            try:
                getattr(importlib.import_module(module), function)(child)
            except ModuleNotFoundError as error:
                return _missing(error)
    return run(parser, argv)


def run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Parse, run, and turn every expected failure into one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks `×` loses it, not the work
            stream.reconfigure(errors="backslashreplace")
    arguments = parser.parse_args(argv)
    arguments.words = list(argv)
    try:
        with ended_by_signal():
            status: int = arguments.run(arguments)
        if sys.stdout is not None:  # it may be closed
            sys.stdout.flush()
        return status
    except UserError as error:
        if getattr(arguments, "traceback", False):
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        return _missing(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (OSError, RecursionError) as error:  # a disk, a name or a nesting that no command foresaw
        if getattr(arguments, "traceback", False):
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left for a full disk would fail again
        return 1


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """SIGTERM (docker stop) ends the work as Ctrl-C does, so that nothing half-written stays behind."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _missing(error: ModuleNotFoundError) -> int:
    name = (error.name or "").split(".")[0]
    if name not in EXTRAS:
        raise error
    print(f"error: {name} is not installed; `{install(EXTRAS[name])}`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
