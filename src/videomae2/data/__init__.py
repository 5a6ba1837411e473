"""From video files to batches: manifests, decoding, sampling, transforms, loading; and drawn sprites."""
