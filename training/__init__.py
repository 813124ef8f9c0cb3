"""Manifests in, checkpoints out: plain torch and transformers."""
