"""`seedbed bench`: how fast clients train on this machine, by each executor and by a plain PyTorch loop."""
