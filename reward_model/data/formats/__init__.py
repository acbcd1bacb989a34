"""Other people's annotation formats, read into records and written from them, one module each."""
