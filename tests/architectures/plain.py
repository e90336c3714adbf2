"""Answers of a checkpoint by transformers alone: a request alone, in one pass, without a cache.

Nothing of the library is used, so that its tokens, batches, caches and masks are compared with
something else than themselves.
"""

from itertools import takewhile

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor


SWITCHES = {"kimi_k25": "thinking"}
"""Variable of a chat template that lets a model think, where it is not ``enable_thinking``."""
SPACES = dict.fromkeys(("idefics2", "idefics3", "smolvlm", "llava", "llava_next"), " ")
"""Space between a prompt and an answer, where there is one."""
ENDS = {
    **dict.fromkeys(("glm4v", "glm46v", "glm4v_moe"), "<|user|>"),
    **dict.fromkeys(("gemma4", "gemma4_moe"), "<turn|>"),
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), "<end_of_utterance>"),
    **dict.fromkeys(("mllama", "perception_lm"), "<|eot_id|>"),
    "hunyuan_vl": "<eos>",
    **dict.fromkeys(("aya_vision", "cohere2_vision"), "<|END_RESPONSE|>"),
    **dict.fromkeys(("llava", "llava_next", "llava_pixtral", "mistral3"), "</s>"),
    "gemma3": "<end_of_turn>",
    "ernie4_5_vl_moe": "<|end_of_sentence|>",
}
"""Token that ends an answer, where it is not ``<|im_end|>``."""


class Plain:
    """A checkpoint of an architecture, as transformers loads it."""

    def __init__(self, folder, name, dtype=torch.float32):
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False
        ).eval()
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        self.space, self.end = SPACES.get(name, ""), ENDS.get(name, "<|im_end|>")
        switch = SWITCHES.get(name, "enable_thinking")
        is_known = switch in self.processor.chat_template
        self._options = {"add_generation_prompt": True} | ({switch: False} if is_known else {})
        self._found = {}

    def inputs(self, request):
        """Prompt as the processor tokenises a conversation with its images."""
        return self.processor.apply_chat_template(
            _turn(request),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **self._options,
        )

    def answer_ids(self, request, answer):
        """Tokens of an answer, and the one that ends it: the last ones of the whole conversation.

        The prompt's own are those it has alone, as for generating: before an answer, Ernie's two
        last line breaks would be two tokens.
        """
        prompt = self.processor.apply_chat_template(_turn(request), tokenize=False, **self._options)
        answer = self.space + answer + self.end
        ids, whole = (
            self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (answer, prompt + answer)
        )
        assert whole[-len(ids) :] == ids
        return ids

    @torch.inference_mode()
    def logits(self, request, ids=()):
        """Logits of a pass over a prompt and the first tokens of its answer, shape (T, words)."""
        return self.model(**self._extended(request, ids), use_cache=False).logits[0].float()

    @torch.inference_mode()
    def last_hidden(self, request):
        """Hidden state of the last token of a prompt."""
        return self.model.model(**self._extended(request, ()), use_cache=False)[0][0, -1]

    def _extended(self, request, ids):
        inputs = dict(self.inputs(request))
        row = inputs["input_ids"].shape
        for name, value in inputs.items():
            if value.shape == row:
                new = {"input_ids": [*ids], "attention_mask": [1] * len(ids)}
                more = torch.tensor([new.get(name, [0] * len(ids))], dtype=value.dtype)
                inputs[name] = torch.cat([value, more], 1)
            elif value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
            elif value.shape[:2] == row:  # which images a token sees
                more = value[:, -1:].expand(-1, len(ids), *value.shape[2:])
                inputs[name] = torch.cat([value, more], 1)
        return inputs

    def choice_logprobs(self, request, head=""):
        """Log-probability of each choice behind a head, but for tokens that all of them share."""
        pixels = [part if isinstance(part, str) else part.tobytes() for part in request.parts]
        key = (*pixels, *request.choices, head)
        if key not in self._found:
            self._found[key] = self._choice_logprobs(request, head)
        return self._found[key]

    def _choice_logprobs(self, request, head):
        rows = [self.answer_ids(request, head + choice) for choice in request.choices]
        columns = zip(*(row[:-1] for row in rows), strict=False)
        shared = sum(1 for _ in takewhile(lambda column: len({*column}) == 1, columns))
        found = []
        for row in rows:
            logprobs = self.logits(request, row).log_softmax(-1)[-len(row) - 1 : -1]
            found.append(float(sum(logprobs[i, row[i]] for i in range(shared, len(row)))))
        return found

    def generated(self, request, n):
        """Greedy tokens of an answer, at most n, a pass for each."""
        ends = self.model.generation_config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends])}
        ends.add(self.processor.tokenizer.convert_tokens_to_ids(self.end))
        ids = []
        while len(ids) < n and (not ids or ids[-1] not in ends):
            ids.append(int(self.logits(request, ids)[-1].argmax()))
        return ids


def _turn(request):
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in request.parts
    ]
    return [{"role": "user", "content": content}]
