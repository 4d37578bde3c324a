"""How often is the diagnosis right? Worlds of known cause, fixed before anything was tuned, and what becomes of them."""
