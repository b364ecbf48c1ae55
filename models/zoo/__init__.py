"""Manifests of known models, and the stand-in model that recognises test cards."""
