"""Ingest servers: who is publishing, and how to stop them. One file per server."""
