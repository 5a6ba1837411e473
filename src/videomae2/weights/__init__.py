"""Other people's checkpoints and ours: read, recognised, loaded, written."""
