"""Scores to metrics, intervals and a `Result`: numbers only, no model.

Takes samples (one row per arm, task, item, template), gives `result.json`. Read next: `metrics.py`, then `evaluate.py`.
"""
