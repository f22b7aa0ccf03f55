"""The page that compares models: what it shows, its charts, and how it is written."""
