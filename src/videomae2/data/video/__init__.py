"""From files to exact frames."""
