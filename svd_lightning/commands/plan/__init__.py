"""`svd-lightning plan`: how much memory a run needs, before anything is downloaded."""
