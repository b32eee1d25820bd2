"""infer, as `python runtime/infer.py LR… -o OUT --engines DIR`: images + engines → super-resolved images."""

from __future__ import annotations

import sys

from passionsr_trt.engines.common.arguments import HelpFormatter, refuse_twice, run
from passionsr_trt.engines.common.parser import OneLineParser
from passionsr_trt.runtime.picture_cli import add_infer


def main() -> int:
    parser = OneLineParser(prog="infer.py", description=__doc__, formatter_class=HelpFormatter)
    refuse_twice(parser)
    add_infer(parser)
    return run(parser, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
