"""Sources of images: files, lists, arrays, videos and data sets, with their labels."""
