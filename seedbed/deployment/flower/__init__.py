"""A real federation over Flower: TLS, registered keys, one open port on the server, and none on a member's machine.

Flower carries bytes; `seedbed.deployment.federation` decides what they mean and what is trusted. Reading order:
`flower_transport` (the server's interface), then `superlink`, `gate`, `key_roster` and `listener` (what is exposed to
the network), `fleet` (a node's connection), `init`, `serve` and `join` (the commands). Needs the extra `flower`.
"""
