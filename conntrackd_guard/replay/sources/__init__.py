"""Where evidence of the past comes from: one kind of source a file."""
