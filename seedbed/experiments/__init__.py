"""Runs: from settings to a directory with everything in it, through any crash."""
