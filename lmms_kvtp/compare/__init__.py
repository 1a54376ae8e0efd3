"""Methods against all tokens on one's own videos and questions, with or without labels."""
