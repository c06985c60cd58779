"""TensorRT and TensorRT-RTX: engines are built, cached, checked and run here.

`api` is the only file that imports a TensorRT package; the others use what it returns.
"""
