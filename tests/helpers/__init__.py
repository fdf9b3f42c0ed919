"""What several test modules share: tiny models, small sets, the command in a process of its own."""
