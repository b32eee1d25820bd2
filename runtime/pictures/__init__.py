"""Picture files that are written: names, formats, 16 bits, what is laid over a background."""
