"""The guard command: arguments, wiring, exit codes."""
