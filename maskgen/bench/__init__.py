"""`maskgen bench`: the same images and weights by several ways, against what the machine could do."""
