#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes chat_templates.json: templates in the styles of published models and what transformers' apply_chat_template makes of them.

    chat_templates_make.py [DIR...]     DIR: model directories whose chat_template.jinja goes in too

Wants transformers; the result is committed and nothing in CI runs this. The models' own templates are Apache-2.0 (SmolLM2, Qwen2.5).
"""
import json
import os
import sys

from transformers import PreTrainedTokenizerFast
from tokenizers import Tokenizer, models

MESSAGES = ["Hi there", "  two\nlines {{ x }} "]
WRITTEN = {
    "zephyr": (
        '{% for message in messages %}\n'
        "{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\n"
        "' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\n"
        "' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n"
        "'  + message['content'] + eos_token }}\n"
        '{% endif %}\n'
        '{% if loop.last and add_generation_prompt %}\n'
        "{{ '<|assistant|>' }}\n"
        '{% endif %}\n'
        '{% endfor %}',
        '<s>', '</s>'),
    "mistral": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_"
        "exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role']"
        " == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['"
        "content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{%"
        ' endfor %}',
        '<s>', '</s>'),
    "llama3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + messag"
        "e['role'] + '<|end_header_id|>\n"
        '\n'
        "'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% en"
        "dif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n"
        '\n'
        "' }}{% endif %}",
        '<|begin_of_text|>', '<|eot_id|>'),
    "llama31": (
        '{{- bos_token }}\n'
        '{%- if custom_tools is defined %}\n'
        '    {%- set tools = custom_tools %}\n'
        '{%- endif %}\n'
        '{%- if not tools_in_user_message is defined %}\n'
        '    {%- set tools_in_user_message = true %}\n'
        '{%- endif %}\n'
        '{%- if not date_string is defined %}\n'
        '    {%- set date_string = "26 Jul 2024" %}\n'
        '{%- endif %}\n'
        '{%- if not tools is defined %}\n'
        '    {%- set tools = none %}\n'
        '{%- endif %}\n'
        '\n'
        '{#- This block extracts the system message, so we can slot it into the right place. #}\n'
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system_message = messages[0]['content']|trim %}\n"
        '    {%- set messages = messages[1:] %}\n'
        '{%- else %}\n'
        '    {%- set system_message = "" %}\n'
        '{%- endif %}\n'
        '\n'
        '{#- System message + builtin tools #}\n'
        '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}\n'
        '{%- if builtin_tools is defined or tools is not none %}\n'
        '    {{- "Environment: ipython\\n" }}\n'
        '{%- endif %}\n'
        '{{- "Cutting Knowledge Date: December 2023\\n" }}\n'
        '{{- "Today Date: " + date_string + "\\n\\n" }}\n'
        '{%- if tools is not none and not tools_in_user_message %}\n'
        '    {{- "You have access to the following functions." }}\n'
        '    {%- for t in tools %}\n'
        '        {{- t | tojson(indent=4) }}\n'
        '    {%- endfor %}\n'
        '{%- endif %}\n'
        '{{- system_message }}\n'
        '{{- "<|eot_id|>" }}\n'
        '\n'
        '{%- for message in messages %}\n'
        "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n"
        "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_i"
        "d|>' }}\n"
        "    {%- elif 'tool_calls' in message %}\n"
        '        {{- raise_exception("no") }}\n'
        '    {%- endif %}\n'
        '{%- endfor %}\n'
        '{%- if add_generation_prompt %}\n'
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
        '{%- endif %}\n',
        '<|begin_of_text|>', '<|eot_id|>'),
    "blanks": (
        'a  \n'
        '  {% if messages %}\n'
        "  b {{- ' c' -}}  \n"
        ' d{# no #}\n'
        "  {%- if messages|length == 1 and messages[-1].role != 'x' -%}  e  {%- else %}f{% endif %}\n"
        '{% endif %}\n'
        "  g {{ 'h' if not tools else 'i' }} {{ none }}{{ nothing }}{{ add_generation_prompt }}\n"
        '\n',
        '<s>', '</s>'),
    "no_chat": (
        '{%- for m in messages %}{{ m.content }}{% if not loop.last %}\n'
        '{% endif %}{% endfor %}',
        '<s>', '</s>'),
}


def main() -> None:
    cases = [{"name": name, "template": text, "bos": bos, "eos": eos} for name, (text, bos, eos) in WRITTEN.items()]
    for directory in sys.argv[1:]:
        with open(os.path.join(directory, "chat_template.jinja"), encoding="utf-8") as stream:
            cases.append({"name": os.path.basename(directory), "template": stream.read(), "bos": "<s>", "eos": "</s>"})
    for case in cases:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=case["bos"], eos_token=case["eos"])
        case["rendered"] = [tokenizer.apply_chat_template([{"role": "user", "content": text}], chat_template=case["template"],
                                                          tokenize=False, add_generation_prompt=True) for text in MESSAGES]
    target = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat_templates.json")
    with open(target, "w", encoding="utf-8") as stream:
        json.dump({"messages": MESSAGES, "cases": cases}, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


if __name__ == "__main__":
    main()
