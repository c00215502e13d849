"""How records look to people and to programs."""
