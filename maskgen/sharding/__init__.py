"""The shard format: write, read, index, verify."""
