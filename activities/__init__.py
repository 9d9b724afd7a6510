"""Effects: thin, idempotent functions that Temporal retries."""
