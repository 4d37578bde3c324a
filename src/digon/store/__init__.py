"""Everything that is kept: atomic files, activation shards and run folders."""
