"""From a table of scores to the photos that one wants: read it, choose rows, act on their photos. Needs no torch."""
