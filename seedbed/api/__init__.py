"""Runs and estimators from Python: what the command line does, on data in files or in memory."""
