"""From run directories to tables, statistics and a paper, without torch."""
