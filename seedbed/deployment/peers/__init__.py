"""Peers without a server in real deployments: each is a process with its own data that exchanges with its neighbours.

Reading order: `peer_policy` (the agreed settings beside the plan), `link` (what one peer knows of another, and when an
exchange counts), `peer` (one peer: rounds, silent neighbours, coming back), `peer_state` (its disk), `messages` (the
wire content), `peer_loop` (its loop), `network` (TCP) and `noise_channel` (encryption).
"""
