"""Back ends: vision-language models behind one interface."""
