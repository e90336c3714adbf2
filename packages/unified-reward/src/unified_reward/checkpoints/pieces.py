"""Llama's ``tokenizer.model`` as transformers' slow tokenizer read it, by SentencePiece itself.

What a text becomes, blanks included, is decided by the normaliser within that file, which
transformers 5 does not take over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from transformers import BatchEncoding

from unified_reward.checkpoints.pretrained import load_errors


_BLANK = "\u2581"


class LlamaPieces:
    """A slow Llama tokenizer with ``legacy=False``; no token is put before or behind a text."""

    def __init__(self, file: Path) -> None:
        with load_errors(f"{file} is not a SentencePiece model"):
            self._model = SentencePieceProcessor(model_file=str(file))
        self.bos_token_id: int = self._model.bos_id()
        self.eos_token_id: int = self._model.eos_id()
        self._unknown: str = self._model.id_to_piece(self._model.unk_id())
        self._n_unknown = len(self._model.encode(self._unknown))

    def __len__(self) -> int:
        return self._model.get_piece_size()

    def __call__(self, text: str, *, add_special_tokens: bool) -> BatchEncoding:
        """Token ids of a text that begins with a blank.

        SentencePiece strips blanks at the beginning, hence the text before it.
        """
        if add_special_tokens:
            raise ValueError("tokens around a text are put there by the caller")
        blank = f"{_BLANK}{text.replace(_BLANK, ' ')}" if text else ""
        ids = self._model.encode(self._unknown + blank)
        return BatchEncoding({"input_ids": ids[self._n_unknown :]})

    def batch_decode(
        self, rows: Iterable[Sequence[int]], *, skip_special_tokens: bool
    ) -> list[str]:
        """Texts of rows of ids."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of ids, without the tokens that stand for no text."""
        is_control = self._model.is_control
        return self._model.decode(
            [i for i in ids if not (skip_special_tokens and (is_control(i) or i == 0))]
        )
