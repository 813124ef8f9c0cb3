"""Preference pairs: what is known of each, which of them a mix may take, how much better the chosen answer is."""
