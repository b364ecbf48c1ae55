"""Faults made on purpose, so that an operator can rehearse what the service says before the real ones come."""
