"""The service: decide, alert, cut, account."""
