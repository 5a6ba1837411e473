"""Task heads over the encoder."""
