"""The OASIS photographs with their beauty ratings, which several studies take."""
