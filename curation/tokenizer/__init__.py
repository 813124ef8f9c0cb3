"""Making a tokenizer: its settings, the sample it learns from, training, the proof of the encoder, the report."""
