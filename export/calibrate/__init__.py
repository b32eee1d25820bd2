"""Ranges and learned calibration: DQC, LBQ, LET, sensitivity."""
