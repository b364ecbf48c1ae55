"""Models as their makers publish them, read without a manifest of ours. All these files are hostile until checked."""
