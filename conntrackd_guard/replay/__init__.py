"""What a policy would have done on evidence of the past: sources, the simulated host, and sums over a fleet."""
