"""Named experiments: the audit, the demo, and what they share."""
