"""How far the predicted spread of ratings can be trusted."""
