"""Sizes of the smallest encoder that has every part, for tests that need a whole one and no particular one."""

SIZES = {
    "num_encoder_layers": "1,1",
    "downsampling_factor": "1,2",
    "encoder_dim": "32",
    "encoder_unmasked_dim": "24",
    "feedforward_dim": "48",
    "cnn_module_kernel": "15",
    "num_heads": "2",
    "query_head_dim": "8",
    "subsampling_channels": "4,4,8",
}
"""Two stacks of one width."""

TWO_WIDTHS = SIZES | {"encoder_dim": "32,24", "encoder_unmasked_dim": "24,24"}
"""Two stacks of different widths."""

SEVEN_STACKS = {
    "num_encoder_layers": "1,1,1,1,1,1,1",
    "encoder_dim": "32",
    "encoder_unmasked_dim": "24",
    "feedforward_dim": "48",
    "num_heads": "2",
    "query_head_dim": "8",
    "value_head_dim": "8",
    "subsampling_channels": "4,8,16",
}
"""The stacks of the published models."""
