"""Training of KVTP's query-frame relevance predictor."""
