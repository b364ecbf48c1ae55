"""Hash lists in the formats in which they are exchanged."""
