"""From frames to training clips."""
