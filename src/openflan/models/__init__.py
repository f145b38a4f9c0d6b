"""Language models: load, save, adapters, soft prompts, packed attention.

Takes a name, gives a `LanguageModel`. Read next: `load.py`, `packing.py`, then `tuning/`.
"""
