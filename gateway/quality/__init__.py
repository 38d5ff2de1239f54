"""Whether nodes answer truly: second runs, checked evidence, disputes."""
