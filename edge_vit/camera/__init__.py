"""The camera loop: frames in, the newest first, a prediction out for each that was run.

No torch and no onnx: what runs here runs on the device.
"""
