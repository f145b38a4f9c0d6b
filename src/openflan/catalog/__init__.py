"""WHAT exists: clusters, tasks and templates as TOML files, and the guard that keeps held-out ones out of tuning."""
