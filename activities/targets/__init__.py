"""Deploy targets: where a release runs and how a shard is switched to it."""
