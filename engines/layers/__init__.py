"""What a built engine consists of: its layers, and how many of them run INT8."""
