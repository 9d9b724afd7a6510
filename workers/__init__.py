"""Processes, and the `chainring` command."""
