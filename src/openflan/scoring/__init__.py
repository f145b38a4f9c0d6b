"""Prompts and a model to log-probabilities and generations.

Takes `EncodedOptions`, gives `OptionScores`; takes `EncodedPrompt`, gives `Generation`. torch loads when a
model is used. Read next: `rank.py`.
"""
