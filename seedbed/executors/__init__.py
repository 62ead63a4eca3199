"""How one client, or a group of clients, trains: a loop, factored matrices, fused kernels, recorded GPU graphs."""
