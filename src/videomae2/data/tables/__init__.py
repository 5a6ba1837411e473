"""Manifests in all their forms."""
