"""Pixels in, matches and scores out: synchronous and pure."""
