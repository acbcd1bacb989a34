"""What a reward can be cheated with: ``probes`` (videos and prompts), ``videos`` (what they are made of), ``table``."""
