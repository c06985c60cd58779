"""Where answers go: each sink one small file, opened by its address in `addresses`."""
