"""From text and pixels to polygons, a mask and its grid."""
