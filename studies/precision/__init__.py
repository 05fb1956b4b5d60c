"""How far half precision and eight bits move scores."""
