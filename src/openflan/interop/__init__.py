"""Exports for other trainers and harnesses."""
