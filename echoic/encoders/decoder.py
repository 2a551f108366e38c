"""The caption decoder of SLAP (2601.12594, section 2, eq. 5): words one after the other, from the
un-pooled tokens of an audio encoder.

Eight pre-norm blocks of width 512 with eight heads, from scratch: causal self-attention over the
words, cross-attention to what is heard, SwiGLU. Captions and clips of a batch lie end to end, so
none is padded. In generation the same blocks run on one word per caption, and what they computed
of the words before it, and of the sound, is remembered (`Memory`).

B clips, P audio tokens of all clips, S of the longest, L text tokens of a caption, R captions that
are being written, V vocabulary, D width, H heads, E = D / H.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from echoic.config import Spec
from echoic.nn.attention import (
    AttentionLayer,
    Backend,
    Lengths,
    cross_attention,
    packed_attention,
)
from echoic.nn.linear import Linear
from echoic.nn.rope import rope_turns, rotate
from echoic.nn.transformer import SwiGLU, init_weights
from echoic.types import DataError, Ragged

Count = Annotated[int, Field(ge=1)]
TokenId = Annotated[int, Field(ge=0)]


class DecoderSpec(Spec):
    """Size and shape; depth, width and heads are the paper's.

    hidden: of the SwiGLU; not in the paper, here four times the width, as its audio encoder has.
    max_tokens: of the longest caption, frame included. begin_id, end_id: the frame. unsaid_ids:
    what no caption has besides (padding, unknown, mask). The ids are those of our own tokenizer.
    sound_positions: cross-attention knows where in its clip an audio token stands. Not in the
    paper, whose tokens know it only by what they heard around them.
    """

    kind: Literal["caption"] = "caption"
    vocab: Count
    depth: Count = 8
    width: Count = 512
    heads: Count = 8
    hidden: Count = 2048
    max_tokens: Annotated[int, Field(ge=3)] = 77
    begin_id: TokenId = 1
    end_id: TokenId = 2
    unsaid_ids: tuple[TokenId, ...] = (0,)
    sound_positions: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 x {self.heads} heads")
        if self.begin_id == self.end_id:
            raise ValueError(f"begin_id and end_id are both {self.end_id}")
        if (most := max(self.begin_id, self.end_id, *self.unsaid_ids)) >= self.vocab:
            raise ValueError(f"id {most} is not in a vocabulary of {self.vocab}")
        return self


class Context(Protocol):
    """What the words of one layer can attend to."""

    def words(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of the words themselves, (ΣL, H, E) each -> (ΣL, H, E)."""
        ...

    def sound(self, q: Tensor) -> Tensor:
        """(ΣL, H, E) -> (ΣL, H, E)."""
        ...


class DecoderBlock(AttentionLayer):
    """One pre-norm block, (ΣL, D) -> (ΣL, D). audio_width: of the tokens that are heard."""

    beside_forward = ("hear",)  # as train/parallel.py asks of a block

    def __init__(self, *, width: int, heads: int, hidden: int, audio_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.RMSNorm(width)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.norm2 = nn.RMSNorm(width)
        self.query = Linear(width, width, bias=False)
        self.sound_key_value = Linear(audio_width, 2 * width, bias=False)
        self.sound_out = Linear(width, width, bias=False)
        self.norm3 = nn.RMSNorm(width)
        self.mlp = SwiGLU(width=width, hidden=hidden)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(1)
        x = x + self.out(context.words(q, k, v).flatten(1))
        q = self.query(self.norm2(x)).unflatten(-1, (self.heads, -1))
        x = x + self.sound_out(context.sound(q).flatten(1))
        return x + self.mlp(self.norm3(x))

    def hear(self, tokens: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor]:
        """(P, audio_width) -> keys and values (P, H, E); turns: (P, 2, E/2) of the keys."""
        k, v = self.sound_key_value(tokens).unflatten(-1, (2, self.heads, -1)).unbind(1)
        return k if turns is None else rotate(k, turns), v


class CaptionDecoder(nn.Module):
    """Ragged audio tokens (P, audio_width) and ragged ids (ΣL,) -> logits (ΣL, V): row i says what
    follows token i. Raises DataError where a clip or a caption is empty or an id is unknown."""

    def __init__(self, spec: DecoderSpec, *, audio_width: int) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocab, spec.width)  # of what goes in and what comes out
        self.sound_norm = nn.RMSNorm(audio_width)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                width=spec.width, heads=spec.heads, hidden=spec.hidden, audio_width=audio_width
            )
            for _ in range(spec.depth)
        )
        self.norm = nn.RMSNorm(spec.width)
        # The tied table too: as the output's matrix. As the input it is not scaled up, else the
        # likeliest to follow would at first be the token itself.
        init_weights(self, spec.depth)

    def forward(self, heard: Ragged, text: Ragged) -> Tensor:
        return self.logits(self.states(heard, text))

    def logits(self, states: Tensor) -> Tensor:
        """(n, D) -> (n, V)."""
        return F.linear(states, self.embedding.weight)

    def states(self, heard: Ragged, text: Ragged, *, parallel: bool = False) -> Tensor:
        """What the logits are made of, (ΣL, D).

        parallel: every word is foretold from the sound alone, at once (CapPa, 2306.07915; LocCa,
        2403.19596): of the text only its lengths are read.
        """
        self._check(heard, text)
        ids = self._hidden(text) if parallel else text.values
        turns = self._turns(text.lengths, ids.device)
        contexts = [
            _Packed(k, v, heard.lengths, text.lengths, turns, not parallel, block.backend)
            for block, (k, v) in zip(self._layers, self._hear(heard), strict=True)
        ]
        return self._run(ids, contexts)

    def _hidden(self, text: Ragged) -> Tensor:
        """(ΣL,): the first token of each caption, then the end, which is read nowhere else, for
        every word. Rotary positions tell words that are all alike by how far the first is."""
        ids = torch.full_like(text.values, self.spec.end_id)
        return ids.index_fill(0, text.offsets[:-1].to(ids.device), self.spec.begin_id)

    def listen(self, heard: Ragged, captions: int = 1) -> Memory:
        """Begin so many captions on each clip: the memory that `step` goes on from."""
        check_heard(heard)
        real = None
        if len(set(heard.lengths)) > 1:
            steps = torch.arange(max(heard.lengths))
            real = (steps < torch.tensor(heard.lengths)[:, None]).to(heard.values.device)
        lengths = list(heard.lengths)
        grids = [
            [pad_sequence(x.split(lengths), batch_first=True).transpose(1, 2) for x in each]
            for each in self._hear(heard)
        ]
        return Memory(
            [_Remembered(k, v, real) for k, v in grids], clips=len(heard), captions=captions
        )

    def step(self, ids: Tensor, memory: Memory) -> Tensor:
        """One more token of each caption, (R,), clip after clip -> logits of what follows (R,
        V)."""
        return self.logits(self._run(ids, memory.layers))

    @property
    def _layers(self) -> list[DecoderBlock]:
        return [cast(DecoderBlock, block) for block in self.blocks]

    def _run(self, ids: Tensor, contexts: Iterable[Context]) -> Tensor:
        x = self.embedding(ids)
        for block, context in zip(self._layers, contexts, strict=True):
            x = block(x, context)
        states: Tensor = self.norm(x)
        return states

    def _hear(self, heard: Ragged) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (P, H, E) for every block."""
        # an encoder that does not end in a norm serves too
        tokens = self.sound_norm(heard.values)
        turns = None
        if self.spec.sound_positions:
            turns = self._turns(heard.lengths, tokens.device)
        return [block.hear(tokens, turns) for block in self._layers]

    def _turns(self, lengths: Lengths, device: torch.device) -> Tensor:
        """(ΣL, 2, E/2): each token turned by its place in its row."""
        steps = torch.arange(max(lengths), device=device)
        places = torch.cat([steps[:n] for n in lengths])[:, None]
        return rope_turns(places, self.spec.width // self.spec.heads)

    def _check(self, heard: Ragged, text: Ragged) -> None:
        check_heard(heard)
        if len(heard) != len(text):
            raise ValueError(f"{len(text)} captions of {len(heard)} clips")
        if 0 in text.lengths:
            raise DataError(f"caption {text.lengths.index(0)} of the batch has no tokens")
        if text.values.device.type == "cpu":  # elsewhere to look is to wait
            least, most = (int(x) for x in text.values.aminmax())
            if least < 0 or most >= self.spec.vocab:
                wrong = least if least < 0 else most
                raise DataError(
                    f"a caption has token {wrong}, which is not in the decoder's vocabulary of "
                    f"{self.spec.vocab}; was it read by another tokenizer?"
                )


def check_heard(heard: Ragged) -> None:
    """Raises DataError on a clip without tokens."""
    if 0 in heard.lengths:
        raise DataError(f"clip {heard.lengths.index(0)} of the batch has no audio tokens")


@dataclass(frozen=True)
class _Packed:
    """Whole captions at once. key, value: (P, H, E) of what is heard; turns: (ΣL, 2, E/2)."""

    key: Tensor
    value: Tensor
    heard: Lengths
    text: Lengths
    turns: Tensor
    causal: bool
    backend: Backend | None

    def words(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = rotate(q, self.turns), rotate(k, self.turns)
        return packed_attention(q, k, v, self.text, causal=self.causal, backend=self.backend)

    def sound(self, q: Tensor) -> Tensor:
        return cross_attention(q, self.key, self.value, self.text, self.heard, backend=self.backend)


class Memory:
    """What generation keeps of B clips and of the captions begun on them, as many on each, all of
    one length."""

    def __init__(self, layers: list[_Remembered], *, clips: int, captions: int) -> None:
        self.layers, self.clips, self.captions = layers, clips, captions

    def select(self, clips: Tensor, parents: Tensor) -> None:
        """Go on with these clips (B',), and on each with the captions that `parents` (B', K)
        names."""
        rows = (clips[:, None] * self.captions + parents).flatten()
        for layer in self.layers:
            layer.select(None if len(clips) == self.clips else clips, rows)
        self.clips = len(clips)


class _Remembered:
    """One layer's part. key, value: (B, H, S, E) of what is heard; real: (B, S) where a clip has
    tokens, None where everywhere."""

    def __init__(self, key: Tensor, value: Tensor, real: Tensor | None) -> None:
        self.key, self.value, self.real = key, value, real
        self.past: tuple[Tensor, Tensor] | None = None  # (R, H, L, E) of the words so far

    def words(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        place = 0 if self.past is None else self.past[0].shape[2]
        turns = rope_turns(torch.full((1, 1), place, device=q.device), q.shape[-1])
        q, k, v = rotate(q, turns)[:, :, None], rotate(k, turns)[:, :, None], v[:, :, None]
        if self.past is not None:
            k, v = (torch.cat([old, new], 2) for old, new in zip(self.past, (k, v), strict=True))
        self.past = k, v
        return F.scaled_dot_product_attention(q, k, v)[:, :, 0]

    def sound(self, q: Tensor) -> Tensor:
        """The captions of a clip share its keys: each is one of its queries."""
        grid = q.unflatten(0, (len(self.key), -1)).transpose(1, 2)  # (B, H, K, E)
        heard = None if self.real is None else self.real[:, None, None]
        out = F.scaled_dot_product_attention(grid, self.key, self.value, attn_mask=heard)
        return out.transpose(1, 2).flatten(0, 1)

    def select(self, clips: Tensor | None, rows: Tensor) -> None:
        if clips is not None:
            self.key, self.value = self.key[clips], self.value[clips]
            self.real = None if self.real is None else self.real[clips]
        if self.past is not None:
            self.past = self.past[0][rows], self.past[1][rows]
