"""The kernel's messages: ring buffer and journal."""
