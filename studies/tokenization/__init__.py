"""Does Charm see what resizing loses? Answered where the answer is known, and on real ratings."""
