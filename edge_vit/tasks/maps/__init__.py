"""What tasks share whose outputs are maps: a value, or several, for each cell of a grid."""
