"""One sub-command each: compare, benchmark, doctor, serve, batch, repository."""
