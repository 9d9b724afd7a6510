"""The domain: data and rules. Pure: no I/O, no clock, no randomness."""
