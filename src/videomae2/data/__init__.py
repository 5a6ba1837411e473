"""From video files to batches: manifests, decoding, sampling, transforms, loading; and the sprites that need
no download.
"""
