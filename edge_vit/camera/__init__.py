"""The camera loop: frames in, the newest first, an answer out for each that was looked at.

No torch and no onnx: what runs here runs on the device.
"""
