"""What runs in a browser: pages, their scripts and styles."""
