"""What is measured, exactly as the official evaluators measure it."""
