"""Files, artifacts, fingerprints and S3."""
