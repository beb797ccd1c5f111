"""Knowledge distillation: FPD from a teacher, OKDHP from the ensemble of a network's own branches."""
