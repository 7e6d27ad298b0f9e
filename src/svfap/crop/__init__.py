"""Raw videos to clips of every face and a manifest."""
