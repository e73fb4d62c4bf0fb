"""From finished runs to tables, statistics and a paper. Reads run directories only; imports no torch."""
