"""Evidence a person can look at: annotated videos and a self-contained page."""
