"""From a table of labels and an encoder to a fine-tuned model and its score, through the one trainer."""
