"""The service's memory on disk: one SQLite file, one writer thread."""
