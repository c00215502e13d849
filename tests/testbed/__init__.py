"""What tests, demo and bench share: made-up hosts, private worlds, and the guard of the machine's own limit."""
