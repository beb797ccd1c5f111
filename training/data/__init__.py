"""Data sets, crops, augmentation and targets."""
