"""Models for runtimes other than echoic: ONNX, int8, torch.export, and the cards that go with
them."""
