"""The micro-world: a small language, tasks about it, and base models pretrained on it from scratch."""
