"""Where the time of a run goes, and the least that it could take."""
