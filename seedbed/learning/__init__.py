"""Objectives, adaptations, optimisers and the local training loop: what algorithms are composed of."""
