"""OpenVINO on a CPU: rewriting, building, compiling, what this CPU computes exactly."""

import sys

# OpenVINO tells Google Analytics of every import, unless its module for that cannot be had
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
