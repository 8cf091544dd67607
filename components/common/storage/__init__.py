"""Object storage: an S3 client with digests, atomic publishing, a probe, and an embedded server."""
