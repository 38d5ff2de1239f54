"""The life of a job: accepted, run durably, finished once with a signed receipt."""
