"""Text: vocabularies, tokenizers, packing, masking, and what a record of token ids becomes."""
