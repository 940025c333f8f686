"""From a graph to results: what is known is found, the rest is run, each step once."""
