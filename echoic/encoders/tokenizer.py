"""Text to token ids, by the `tokenizers` library; its JSON travels inside the checkpoint.

B texts, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from echoic.encoders.published import published_tokenizer
from echoic.types import CheckpointError

PAD, START, END = "<pad>", "<s>", "</s>"


class TextTokenizer:
    """Strings to lists of ids, each framed by the special tokens and cut to `max_tokens`."""

    def __init__(self, backend: Backend, *, max_tokens: int) -> None:
        backend.no_padding()
        backend.enable_truncation(max_tokens)
        self.backend, self.max_tokens = backend, max_tokens

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab: int, max_tokens: int) -> TextTokenizer:
        """A byte-level BPE of at most `vocab` tokens learnt on `texts`; case and accents' forms are
        folded."""
        backend = Backend(models.BPE())
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[PAD, START, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        framed = [(token, backend.token_to_id(token)) for token in (START, END)]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=framed
        )
        return cls(backend, max_tokens=max_tokens)

    @classmethod
    def published(cls, name: str | Path, *, max_tokens: int) -> TextTokenizer:
        """That of a published RoBERTa, BERT, BART or CLIP: a folder, a tokenizer.json, or a name on
        the Hub. Raises CheckpointError."""
        return cls(published_tokenizer(name), max_tokens=max_tokens)

    @classmethod
    def from_json(cls, text: str, *, max_tokens: int) -> TextTokenizer:
        try:
            return cls(Backend.from_str(text), max_tokens=max_tokens)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"the tokenizer in the checkpoint is damaged: {error}") from None

    def to_json(self) -> str:
        return self.backend.to_str()

    @property
    def vocab(self) -> int:
        """One more than the highest id: some published files leave ids out."""
        return max(self.backend.get_vocab().values()) + 1

    @property
    def special_ids(self) -> set[int]:
        """Of what is no word: the frame, filling, unknown."""
        added = self.backend.get_added_tokens_decoder()
        return {index for index, token in added.items() if token.special}

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in self.backend.encode_batch(list(texts))]
        except TypeError:
            raise  # what was given is no text
        except BaseException as error:
            panic = type(error).__name__ == "PanicException"  # of its Rust; no Exception
            if not panic and not isinstance(error, Exception):
                raise
            told = (str(error) or "panic").partition("\n")[0]
            raise CheckpointError(f"the tokenizer is damaged: a text ends in {told!r}") from None

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode(list(ids)).strip()
