"""Frames from all streams to inspections: a pool on the service's side, processes on the other."""
