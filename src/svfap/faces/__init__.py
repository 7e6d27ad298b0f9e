"""From frames to face tracks to crops; opens no videos and knows no models."""
