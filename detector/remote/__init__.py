"""Cuts that somebody else makes: asked for by signed alerts, answered by signed acknowledgements, verified here."""
