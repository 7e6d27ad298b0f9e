"""Raw video in, affect over time or a reconstruction out."""
