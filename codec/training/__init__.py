"""Training: configuration, data, the trainable model and the loop. Needs the extra ``train``."""
