"""The daemon: its loop, its decisions and how it is put together."""
