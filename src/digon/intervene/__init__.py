"""What superposition costs, and what reduces it: attacks and edits."""
