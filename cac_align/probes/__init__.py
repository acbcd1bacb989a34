"""Probes of how a reward can be cheated: ``probes`` (videos and prompts), ``videos`` (their material), ``table``."""
