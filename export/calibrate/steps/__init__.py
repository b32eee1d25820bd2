"""The steps of a calibration, one each: what it requires, the mathematics, what it ensures."""
