"""Banks of a running service: filled, watched, rebuilt, held to their budget; entries that match too much."""
