"""Tokenizers of random tiny checkpoints, each with the control tokens of its architecture."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import TEXTS


def train_tokenizer(control, *, bos=None, eos, pad, **named):
    """Train a byte-level tokenizer; like the real ones, it begins every text with ``bos``.

    Two line breaks are one token, and so are three.

    Args:
        control: Control tokens beside those named by the other arguments.
        bos: Token put before every text, if any.
        eos: Token at the end of every text.
        pad: Token of padding.
        **named: Control tokens that become attributes of the tokenizer, such as ``image_token``.
    """
    special = [*dict.fromkeys([pad, eos, *([bos] if bos else []), *control, *named.values()])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, "\n\n", "\n\n\n"], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=[token for token in special if token not in (bos, eos, pad)],
        extra_special_tokens=named,
    )
