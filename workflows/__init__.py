"""Orchestration only: order, retries, timers, signals, updates, queries."""
