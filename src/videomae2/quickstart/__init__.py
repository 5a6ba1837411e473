"""The main job end to end, on videos drawn here."""
