"""WHERE rows come from: hub datasets, local files in hub layout, the micro-world."""
