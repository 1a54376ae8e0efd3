"""What captions clips, refines questions and scores clips."""
