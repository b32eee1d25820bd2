"""Model families, a package each; registry.py lists them."""
