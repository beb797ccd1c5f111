"""Stand-ins for packages that need a GPU; device memory is host memory, and streams work at once."""
