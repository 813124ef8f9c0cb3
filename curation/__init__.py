"""Text in, decisions and manifests out: plain functions over Arrow tables."""
