"""The face service: an HTTP interface to a pipeline and a gallery, and a web page."""
