"""OpenVINO on a CPU: rewriting, building, compiling, what this CPU computes exactly."""
