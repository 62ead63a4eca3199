"""Attacks that measure what leaks, so that a promise is checked before it is believed.

`inversion` (inputs from the update of a dense layer, in closed form), `matching` (inputs by matching gradients),
`labels` (labels from the head's update), `canaries` (a lower bound on ε from one run), `membership` and `property`
(what a trained model tells of its clients).
"""
