"""Latents <-> bytes."""
