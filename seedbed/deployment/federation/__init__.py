"""A real federation: a server half that survives crashes, and a node half that keeps its client's data and memory.

Read in this order: `plan` (what both sides agree on), `server` (one round from the choice of clients to the commit),
`node`, `journal` and `progress` (what is on the server's disk, and what it means), `transport` (the seam under which
anything that carries bytes may sit; `faulty` and `local` are two).
"""
