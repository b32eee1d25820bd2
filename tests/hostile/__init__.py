"""Hostile inputs: whatever a user hands the commands is done rightly or refused in one line. `make hostile`."""
