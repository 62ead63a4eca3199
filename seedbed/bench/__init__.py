"""`seedbed bench`: how fast clients train on this machine, for each executor and for a plain PyTorch loop."""
