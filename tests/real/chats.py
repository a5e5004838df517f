"""Write chats.json: conversations, and the prompts that Hugging Face's renderer makes of them with the model's template.

    pip install transformers==5.24.0 gguf==0.19.0
    python tests/real/chats.py "$(python jupyter/real_model.py)"
"""

import json
import sys
from pathlib import Path

import gguf
from transformers.utils.chat_template_utils import render_jinja_template

CONVERSATIONS = [
    [("user", "Hello")],
    [("system", "You are terse."), ("user", "What is 2 + 2?")],
    [("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "Name a colour.")],
    [("system", ""), ("user", "  spaces around  \n\nand lines\t")],
    [("user", "Who? <b>&amp;</b> {{ not_a_variable }} {% if %}"), ("assistant", "é 😀 “quoted” \\n"), ("user", "你好")],
    [("user", "<|im_end|> inside"), ("system", "late"), ("user", "")],
]


def main(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    special = {name: tokens[fields[f"tokenizer.ggml.{name}_id"].contents()] for name in ("bos_token", "eos_token")}
    chats = [[{"role": role, "content": text} for role, text in turns] for turns in CONVERSATIONS]
    template = fields["tokenizer.chat_template"].contents()
    prompts, _ = render_jinja_template(chats, chat_template=template, add_generation_prompt=True, **special)
    rows = [{"messages": chat, "prompt": prompt} for chat, prompt in zip(chats, prompts)]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    Path(__file__).with_name("chats.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
