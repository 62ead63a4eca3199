"""A real federation over Flower: TLS, registered nodes, and the processes on each machine.

Flower carries bytes; what they say, and what is believed of them, is `seedbed.federation`'s. Read `transport` first
(the server half's seam), then `executor` and `server_app` (all that Flower may run, on a node and on the server),
`founding`, `serving` and `joining` (the commands). Needs the extra `flower`.
"""
