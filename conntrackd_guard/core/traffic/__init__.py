"""What fills a table, from entries to advice."""
