"""How many ratings a personal head takes."""
