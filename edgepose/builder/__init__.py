"""From an exported ONNX file to what runs best on a device."""
