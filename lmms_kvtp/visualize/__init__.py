"""Pictures of what methods keep of a video, and why."""
