"""The history of decisions and the time series, in SQLite."""
