"""Who asks, and what they may: callers, tokens of issuers, rates."""
