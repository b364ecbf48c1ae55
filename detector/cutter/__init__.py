"""`stopframe cutter`: cuts what signed alerts ask for, on whichever host reaches the ingest server."""
