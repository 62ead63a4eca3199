"""Peers without a server, in earnest: each is a process with its own data, and exchanges with its neighbours.

Read in this order: `terms` (what all peers agree on beside the plan), `link` (what one peer knows of another, and when
an exchange counts), `peer` (one peer: rounds, neighbours that fall silent, coming back), `memory` (what is on its
disk), `letters` (what travels), `running` (its loop) and `network` (ZeroMQ, encrypted).
"""
