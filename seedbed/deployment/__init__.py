"""Everything that runs on other machines: the wire format, server and nodes, peers, and Flower as a transport."""
