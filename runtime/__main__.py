"""`python -m passionsr_trt.runtime`: the console command."""

import sys

from passionsr_trt.runtime.main import main

if __name__ == "__main__":
    sys.exit(main())
