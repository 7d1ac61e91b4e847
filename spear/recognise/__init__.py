"""From the output of a fine-tuned encoder to words: decoders, words in time, long files, and errors."""
