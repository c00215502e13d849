"""The settings: keys, value types, validation and files."""
