"""What an operator's commands do."""
