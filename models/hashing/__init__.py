"""Fingerprints of a 64x64 luma plane, and the views of a frame that are fingerprinted."""
