"""The operator's YAML: its sections and units, the loader, and the faults it reports by file and line."""
