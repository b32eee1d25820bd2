"""Engines, the chain of three, images, comparison and benchmark: everything a device runs."""
