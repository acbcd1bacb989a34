"""Small models of the real classes, trained from scratch on the procedural world, so that every path runs offline."""
