"""What Python users hold."""
