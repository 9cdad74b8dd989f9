"""The service: HTTP in, library words out. Never imports torch."""
