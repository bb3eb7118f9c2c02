"""What the attacks share. Private: names change without notice."""
