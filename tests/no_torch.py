"""`-p tests.no_torch`: tests run as on a machine without PyTorch, from committed bundles."""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]
