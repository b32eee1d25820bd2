"""What is deployed: parts of sites and ports, what neighbours absorb, and the proof of every fold."""
