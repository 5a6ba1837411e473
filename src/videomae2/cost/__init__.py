"""What a network costs, on paper: multiply-accumulates, bytes, hours."""
