"""Attacks that measure leaks, to test privacy claims.

`layer_inversion` (inputs from the update of a dense layer, in closed form), `gradient_matching` (inputs by matching
gradients), `label_leak` (labels from the head's update), `canary_bound` (a lower bound on ε from one run),
`membership_inference` and `property_inference` (facts about clients from models and messages).
"""
