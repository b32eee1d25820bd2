"""Clips in, clips out: frames are decoded, enlarged and encoded as they come; none lies on disk as a picture."""
