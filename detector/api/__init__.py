"""HTTP of the service: health and metrics for machines, control for the operator's own commands."""
