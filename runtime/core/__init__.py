"""The chain of parts on arrays and pictures: tiles, memory, colour, results in order."""
