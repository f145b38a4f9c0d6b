"""HOW MUCH of each task: rates, caps, and a stateless map from block number to (task, row, template)."""
