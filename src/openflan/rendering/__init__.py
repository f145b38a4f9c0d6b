"""HOW a row reads: templates, options and exemplars turn a row into an Example."""
