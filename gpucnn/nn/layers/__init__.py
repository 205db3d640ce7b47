"""The layers, each a thin Module over its function in `gpucnn.nn.functional`."""
