"""Quantization as a value: grids, observers, quantizers that are attached to a part, and the calibration."""
