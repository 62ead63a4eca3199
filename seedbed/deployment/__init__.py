"""Everything that runs on other machines: messages, the federation's two halves, peers, and Flower as transport."""
