"""The device, the one door for primitives, the tensor and its graph."""
