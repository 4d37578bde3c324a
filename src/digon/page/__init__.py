"""One HTML page per run, and its short form in a terminal. Reads records and tables; never torch."""
