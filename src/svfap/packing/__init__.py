"""Videos to JPEG frames in shards, which training reads several times as fast."""
