"""Alerts: what they say, and how they reach whoever must know."""
