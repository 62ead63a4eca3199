"""A real federation over Flower: TLS, registered keys, one open port on the server and none on a member's machine.

Flower carries bytes; `seedbed.deployment.federation` decides what they say and what is believed. Read `transport` first
(the server half's seam), then `superlink`, `gate`, `roster` and `listener` (what is open to the world), `fleet` (a
node's connection), `founding`, `serving` and `joining` (the commands). Needs the extra `flower`.
"""
