"""Ways to read the frames of a video file: decord and PyAV, and what tells which of them gets them right."""
