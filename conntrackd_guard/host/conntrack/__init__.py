"""Connection tracking in the kernel: limit, tables, namespaces, entries."""
