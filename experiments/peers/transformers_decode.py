#!/usr/bin/env python3
"""Tokens a second of transformers generating greedily, eager and in bfloat16: what `grinqh bench decode` stands beside.

The model has the published shape of llama-3.1-8b and random weights made on the device, as the framework's synthetic
preset has: nothing is downloaded. Prints one line of JSON. Needs torch and transformers and a CUDA device.

    transformers_decode.py [--context 1024] [--tokens 32] [--batch 1] [--layers 32]
"""
import argparse
import json
import time

import torch
import transformers


def model_of(layers, device, dtype):
    config = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, rms_norm_eps=1e-5,
        rope_theta=500000.0, tie_word_embeddings=False)
    config._attn_implementation = "eager"
    # Without the initialization of the library, which takes longer than everything that is measured.
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model = model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "norm" in name:
                values.fill_(1.0)
            else:
                values.normal_(0.0, 0.02, generator=generator)
    # What is computed from the configuration was not computed on the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    return model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--layers", type=int, default=32)
    arguments = parser.parse_args()
    device = torch.device("cuda")
    model = model_of(arguments.layers, device, torch.bfloat16)
    prompt = torch.randint(0, 128256, (arguments.batch, arguments.context), device=device)

    def seconds(new_tokens):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.no_grad():
            made = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                                  min_new_tokens=new_tokens, max_new_tokens=new_tokens, pad_token_id=0)
        torch.cuda.synchronize()
        assert made.shape[1] == arguments.context + new_tokens
        return time.perf_counter() - begin

    # The prompt's share is taken off: a generation of one token is the prompt alone.
    seconds(2)
    prefill = min(seconds(1) for _ in range(2))
    step = min(seconds(1 + arguments.tokens) - prefill for _ in range(2)) / arguments.tokens
    print(json.dumps({
        "transformers": transformers.__version__, "torch": torch.__version__,
        "device": torch.cuda.get_device_name(), "context": arguments.context, "batch": arguments.batch,
        "tokens": arguments.tokens, "step_us": step * 1e6, "tokens_per_second": arguments.batch / step}))


if __name__ == "__main__":
    main()
