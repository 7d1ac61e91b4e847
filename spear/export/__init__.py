"""Trained models in the formats of others: Hugging Face folders, ONNX, torch.export, icefall checkpoints."""
