"""Metric providers: how a region reads what its releases do."""
