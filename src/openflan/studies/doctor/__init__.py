"""Checks on the actual model that the fast ways of tuning and scoring it are exact.

Read `examine.py` first; `finding.py` says what a check gives, `patient.py` what it gets.
"""
