"""Pure: values, reasons, sums. No clock, no file, no log."""
