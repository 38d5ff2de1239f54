"""Other operators' gateways: whom we know, how we talk to them, what we believe."""
