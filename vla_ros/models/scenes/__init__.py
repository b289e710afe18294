"""Text -> scene -> text: what words look like, and whether a picture means the same words again."""
