"""The demo page without its web framework: what a visitor gives, and what the page then shows.

Reading order: ``uploads`` (what is taken, and what is refused in which words), ``desk`` (from a file, a scene or a
prompt to a video and HTML). ``recipes/demo_app.py`` puts buttons before it.
"""
