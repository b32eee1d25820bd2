"""Image networks: one network from the low-resolution picture to the large one, as spandrel recognises it."""
