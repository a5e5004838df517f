"""Write tokens.json: hard texts and those of prompts.json with their token ids, as llama.cpp cuts them.

    pip install xllamacpp==2026.10.11549
    python tests/real/tokens.py "$(python jupyter/real_model.py)"
"""

import json
import sys
import urllib.request
from pathlib import Path

import xllamacpp

HERE = Path(__file__).parent
TEXTS = [
    "Hello, world!",
    " leading space",
    "trailing space ",
    "two  spaces,   three,    four",
    "\ttab\t\ttwo tabs",
    "line\nline\n\nline\r\nline\n",
    " \n \t \n",
    "   ",
    "1234567890",
    "3.14159, -2.5e-10, 1,000,000 and 0xDEADBEEF",
    "2026-11-26T14:03:43Z",
    "x1y22z333",
    "I'm you're he'll they've SHE'D it's O'Neill's rock'n'roll",
    "don’t “quote” — dash – hyphen… ‹›",
    "def f(x):\n    return x**2  # squared\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] ^= b[i] >> 3; }",
    "SELECT * FROM t WHERE name LIKE '%\\_x%' -- comment",
    '{"key": [1, null, true, "\\u00e9"]}',
    "<div class=\"a b\">&nbsp;&lt;</div>",
    "https://example.org/a?b=c&d=%20#e",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "!!!???...;;;:::###$$$%%%^^^&&&***((()))",
    "naïve café façade über Straße Ærøskøbing",
    "nai\u0308ve cafe\u0301 — the same with combining marks",
    "a\u0300\u0301\u0302\u0303 Z̸͎͝a̷l̵g̶o̴",
    "Привет, мир! Ελληνικά",
    "你好，世界！这是一个测试。",
    "こんにちは世界。カタカナ と ｶﾀｶﾅ",
    "안녕하세요 세계",
    "مرحبا بالعالم ١٢٣ שלום עולם",
    "नमस्ते दुनिया १२३ ไทย",
    "😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ ☃",
    "½ ² ³ ¼ Ⅷ ① ㊿ ٣ 𝟘𝟙",
    "∀x∈ℝ: x² ≥ 0 ∧ ∑ᵢ aᵢ → ∞",
    "no\u00a0break thin\u2009space ideographic\u3000space zero\u200bwidth \ufeffmark",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠜎",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "text<|endoftext|>more <|im_start|> <|im_end|>< |im_end|> <|im_end",
    "Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The special magic number for foamy-harp is: 9077192.",
]


def main(model):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx, parameters.warmup, parameters.verbosity = 512, False, 0
    server = xllamacpp.Server(parameters)
    prompts = json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))
    rows = [{"text": text, "ids": ids(server, text)} for text in TEXTS + prompts]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "tokens.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def ids(server, text):
    body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
    request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


if __name__ == "__main__":
    main(sys.argv[1])
