"""Where pixels come from: files, lists, arrays, videos and data sets, with their labels."""
