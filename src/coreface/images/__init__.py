"""Images: loaded from anything, checked before they are decoded, and turned into what a network takes."""
