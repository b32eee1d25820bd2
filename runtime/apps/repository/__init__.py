"""repository: engines as a Triton model repository, and what runs inside Triton's Python model."""
