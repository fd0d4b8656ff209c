from __future__ import annotations

from typing import Any

import pytest
import torch as th

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def tiny_vlm() -> tuple[Any, Any]:
    """A LLaVA of transformers' own classes with random weights, a letter per token, and its processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from vla_algos.models.transformers_import import PreTrainedTokenizerFast

    # isort: split
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    entries = ["<unk>", "<pad>", "<image>", *(chr(code) for code in range(32, 127))]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, unk_token="<unk>", pad_token="<pad>", additional_special_tokens=["<image>"]
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaConfig(vocab_size=len(entries), max_position_embeddings=512, pad_token_id=1, **sizes)
    th.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=28, patch_size=14, **sizes).to_dict(),
            text_config=text.to_dict(),
            image_token_index=vocabulary["<image>"],
            image_seq_length=4,
        )
    )
    with th.no_grad():
        # fresh heads are so small that every token is about as likely as any other
        model.lm_head.weight.mul_(20)
    return model.eval(), processor
