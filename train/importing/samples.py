"""The texts on which a bundle is compared with the stock pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from serve.inference.text import Text

MAX_LONG_TOKENS = 2048
"""Longest text on which logits are compared; of longer ones the token ids are."""

MAX_SPECIALS = 40
"""Special tokens that are written out in a text; some models reserve hundreds."""

_WORDS = "the delivery was late and nobody answered my question about the invoice again".split()

_BUILT_IN = (
    ("a short text", "ok"),
    ("a sentence", "The parcel arrived late, and the box was open."),
    ("a question", "Could you please tell me where my refund is?"),
    ("an almost empty text", "."),
    ("an almost empty text", " a "),
    ("white space", "  two  spaces,\ta tab\n\nand new lines  "),
    ("upper case", "WHY IS THIS STILL NOT FIXED!!!"),
    ("digits and signs", "Order #4711: 3 x 19.99 EUR = 59.97 (20% off) @ 10:30"),
    ("an address", "see https://example.com/a?b=c&d=%20e or mail a.b+c@example.com"),
    ("code", "if (a[i] <= 0x1F) { return -1; } // TODO: fix_me"),
    ("markup", "<p>Hello&nbsp;<b>world</b></p>"),
    ("accents", "Müller aß Crème brûlée in São Paulo, naïve façade, Łódź"),
    ("combining characters", "Cafe\u0301 re\u0301sume\u0301 A\u030angstro\u0308m"),
    ("Chinese and Japanese", "这个产品非常好。 配送がとても遅かったです。"),
    ("Cyrillic and Greek", "Очень плохое обслуживание, Καλημέρα κόσμε"),
    ("Arabic and Hebrew", "الخدمة ممتازة جدا, שירות מצוין"),
    ("Hindi, Thai and Korean", "सेवा बहुत अच्छी है บริการดีมาก 서비스가 좋아요"),
    ("emoji", "great 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️"),
    (
        "unusual characters",
        "zero\u200bwidth, soft\u00adhyphen, nbsp\u00a0here, \ufb01 ligature, ™ ½ ﷺ",
    ),
    ("a long word", "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 3),
    ("repeated words", "no no no no no no no no no no no no no no no no"),
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A text and what is special about it."""

    kind: str
    text: Text


def built_in(tokenizer: Any, *, max_length: int, is_pair: bool, pads: bool) -> list[Sample]:
    """Return varied texts: short and longer than `max_length`, any script, special tokens.

    tokenizer: the stock one, whose special tokens are written out. pads: whether it has a pad
    token; otherwise no text ends in a special token, see `checkpoint`.
    """
    singles = [*_BUILT_IN, *_specials(tokenizer, pads=pads)]
    length = min(max_length, MAX_LONG_TOKENS)
    long = " ".join(_WORDS * (1 + 2 * length // len(_WORDS)))
    singles += [("a text longer than the maximum length", long)]
    singles += [
        ("a text of about the maximum length", " ".join(long.split()[: max(1, length - 2)]))
    ]
    if not is_pair:
        return [Sample(kind=kind, text=text) for kind, text in singles]
    return list(_pairs(singles, long))


def _specials(tokenizer: Any, *, pads: bool) -> Iterator[tuple[str, str]]:
    tokens = [str(each) for each in tokenizer.all_special_tokens][:MAX_SPECIALS]
    for token in tokens[:6]:
        yield "a special token written out", f"before {token} after"
    if tokens:
        yield "special tokens written out", f"{tokens[0]} word {' '.join(tokens)} more{tokens[0]}!"
    if pads and tokens:
        yield "a special token at the end", f"a text that ends in {tokens[-1]}"


def _pairs(singles: Sequence[tuple[str, str]], long: str) -> Iterator[Sample]:
    others = [*singles[5:], *singles[:5]]
    for (kind, first), (_, second) in zip(singles, others, strict=True):
        yield Sample(kind=f"a pair with {kind}", text=(first, second))
    longer = long[: len(long) * 2 // 3]
    for kind, pair in (
        ("a pair of equal texts", ("the same text", "the same text")),
        ("a pair of two long texts", (long, long)),
        ("a pair of a long and a longer text", (longer, long)),
        ("a pair of a longer and a long text", (long, longer)),
        ("a pair of a short and a long text", ("short", long)),
    ):
        yield Sample(kind=kind, text=pair)
