"""How well do coders take features out of superposition? Worlds whose features are known, coders on equal terms."""
