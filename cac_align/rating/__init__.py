"""People judge videos on a local web page: ratings, two-round review, agreement, and where people and judge differ."""
