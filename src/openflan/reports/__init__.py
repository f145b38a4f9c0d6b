"""Run folders to figures, tables and one HTML page. Never imports torch: a page renders wherever the files are."""
