"""Token streams: cards, extraction in one pass, verification."""

from spear.tokens.card import TokenCard, check_teacher, open_stream

__all__ = ["TokenCard", "check_teacher", "open_stream"]
