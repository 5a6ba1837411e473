"""Networks and other people's weights: tensors in, tensors out; no files but checkpoints, no distribution."""
