"""Job scripts and the graph that submits them."""
