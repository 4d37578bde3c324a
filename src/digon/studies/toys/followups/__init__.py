"""What followed the paper: a study per article, and its claims beside it."""
