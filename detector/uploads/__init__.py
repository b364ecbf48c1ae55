"""Files that a platform has looked at before it publishes them."""
