"""What the gateway keeps: jobs, API keys, who owns which blob, and the blobs."""
