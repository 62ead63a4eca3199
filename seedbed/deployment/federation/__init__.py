"""A real federation: a server that survives crashes, and a node that keeps its client's data and state.

Reading order: `protocol` (what both sides agree on), `server` (one round, from choosing the cohort to the commit),
`node`, `journal` and `state_machine` (the server's disk, and its meaning), `transport` (the interface for anything that
carries bytes; `fault_injection` and `local_transport` implement it).
"""
