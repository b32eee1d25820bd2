"""Rewritings of a graph for OpenVINO, one a file."""
