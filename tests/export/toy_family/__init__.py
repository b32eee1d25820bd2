"""A family that a contributor might add: a toy diffusion model, as CONTRIBUTING.md says it."""
