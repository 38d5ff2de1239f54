"""Nodes in a Ray cluster.

    gateway --JSON lines--> driver (a child process) --Ray--> one actor on each node

The gateway's process never imports Ray: a driver ends by itself when its node's Ray
does, and takes 100 MB. On each node a detached actor holds the same worker processes
and enclaves as a gateway's own node, and a cache of what they read. Why it is so:
docs/adr/0029-ray.md.
"""
