"""Looking at results: figures and the self-contained HTML page."""
