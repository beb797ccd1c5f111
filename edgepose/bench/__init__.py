"""How fast a model file runs on this machine: stages, persons, memory, start-up."""
