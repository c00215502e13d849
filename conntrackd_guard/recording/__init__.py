"""Everything on the recorder's thread: drop-in, history, log, metrics."""
