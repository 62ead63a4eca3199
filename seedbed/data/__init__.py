"""What clients hold and what they work on: populations, readers of real data, samplers."""
