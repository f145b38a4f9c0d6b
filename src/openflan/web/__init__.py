"""The browser's view of catalog, runs and a playground; needs the extra `web`."""
