"""What leaves a client, and what can be learned from it."""
