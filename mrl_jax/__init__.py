"""Elastic representations in JAX: one model whose every prefix and width is a usable embedding."""
