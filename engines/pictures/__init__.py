"""Picture files: which are read, how their pixels, depth, transparency and metadata become a chain's input."""
