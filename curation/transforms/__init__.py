"""How a mix changes what it takes: transforms of single documents, and sources derived from other sources."""
