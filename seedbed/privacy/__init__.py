"""Differential privacy and secure aggregation: limits on what a client's update reveals."""
