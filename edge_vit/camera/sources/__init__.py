"""Where frames come from: one small file for each way, behind one protocol."""
