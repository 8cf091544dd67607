"""Training: augmentation, loops, EMA, scoring, seeding, checkpoints. Tensors in, tensors out."""
