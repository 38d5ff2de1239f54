"""Where jobs run: worker processes and enclaves of this node."""
