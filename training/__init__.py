"""Training of edgepose models: a tool of the source checkout, never installed with the SDK."""
