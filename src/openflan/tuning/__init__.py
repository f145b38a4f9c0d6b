"""Instruction tuning: packed rows and a model in, a tuned model out.

Read `tune.py` first; `feed.py` cuts the mixture into steps, `checkpoint.py` makes a killed run continue.
"""
