"""Image-text encoders of frames, shared by scorers and pruners."""
