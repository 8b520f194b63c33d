#!/usr/bin/python3
"""hf_to_gguf.py DIR OUT.gguf: a Hugging Face checkpoint as a GGUF file, tensors in the type they are stored in.

For tests: what the engine computes from both must be the same.  Standard library only."""
import array
import glob
import json
import math
import os
import struct
import sys

GGUF_TYPE = {"F32": 0, "F16": 1, "BF16": 30}
U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
ALIGNMENT = 32


def read_tensors(directory):
    tensors = {}
    for path in sorted(glob.glob(os.path.join(directory, "model*.safetensors"))):
        with open(path, "rb") as file:
            data = file.read()
        (header_bytes,) = struct.unpack_from("<Q", data)
        for name, entry in json.loads(data[8 : 8 + header_bytes]).items():
            if name != "__metadata__":
                begin, end = (8 + header_bytes + at for at in entry["data_offsets"])
                tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    return tensors


def transposed(tensor, column, columns):
    """[experts, in, out] -> [experts, out, in], of `columns` outputs from `column` on."""
    dtype, (experts, rows, stride), data = tensor
    values = array.array("I" if dtype == "F32" else "H", data)
    out = array.array(values.typecode)
    for expert in range(experts):
        for c in range(column, column + columns):
            start = expert * rows * stride + c
            out.extend(values[start : start + (rows - 1) * stride + 1 : stride])
    return dtype, [experts, columns, rows], out.tobytes()


def rope_divisors(config):
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type") != "llama3":
        return None
    theta = rope.get("rope_theta", config.get("rope_theta"))
    low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    divisors = []
    for j in range(config["head_dim"] // 2):
        wavelength = 2 * math.pi * theta ** (2 * j / config["head_dim"])
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low or low == high:
            divisors.append(rope["factor"])
        else:
            s = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - s) / rope["factor"] + s))
    return "F32", [len(divisors)], struct.pack(f"<{len(divisors)}f", *divisors)


def gguf_tensors(config, tensors):
    out = {"token_embd.weight": tensors["model.embed_tokens.weight"], "output_norm.weight": tensors["model.norm.weight"]}
    if not config["tie_word_embeddings"]:
        out["output.weight"] = tensors["lm_head.weight"]
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "feed_forward.router": "ffn_gate_inp", "feed_forward.gate_proj": "ffn_gate",
             "feed_forward.up_proj": "ffn_up", "feed_forward.down_proj": "ffn_down",
             "feed_forward.shared_expert.gate_proj": "ffn_gate_shexp",
             "feed_forward.shared_expert.up_proj": "ffn_up_shexp",
             "feed_forward.shared_expert.down_proj": "ffn_down_shexp"}  # fmt: skip
    width = config["intermediate_size"]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for hf, gguf in names.items():
            for kind in ("weight", "bias"):
                if f"{layer}{hf}.{kind}" in tensors:
                    out[f"blk.{i}.{gguf}.{kind}"] = tensors[f"{layer}{hf}.{kind}"]
        gate_up = tensors.get(layer + "feed_forward.experts.gate_up_proj")
        if gate_up:
            out[f"blk.{i}.ffn_gate_exps.weight"] = transposed(gate_up, 0, width)
            out[f"blk.{i}.ffn_up_exps.weight"] = transposed(gate_up, width, width)
            down = tensors[layer + "feed_forward.experts.down_proj"]
            out[f"blk.{i}.ffn_down_exps.weight"] = transposed(down, 0, config["hidden_size"])
    divisors = rope_divisors(config)
    if divisors:
        out["rope_freqs.weight"] = divisors
    return out


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def string_array(values):
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def tokenizer_keys(path):
    with open(path, encoding="utf-8") as file:
        tokenizer = json.load(file)
    tokens = {id: (token, 1) for token, id in tokenizer["model"]["vocab"].items()}
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = (added["content"], 3 if added["special"] else 4)
    ids = {token: id for id, (token, _) in tokens.items()}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    rows = [tokens.get(id, (f"[PAD{id}]", 5)) for id in range(max(tokens) + 1)]
    return [
        ("tokenizer.ggml.model", STRING, text("gpt2")),
        ("tokenizer.ggml.pre", STRING, text("llama4")),
        ("tokenizer.ggml.tokens", ARRAY, string_array([token for token, _ in rows])),
        ("tokenizer.ggml.token_type", ARRAY, struct.pack(f"<IQ{len(rows)}i", I32, len(rows), *(t for _, t in rows))),
        ("tokenizer.ggml.merges", ARRAY, string_array(merges)),
        ("tokenizer.ggml.bos_token_id", U32, struct.pack("<I", ids["<|begin_of_text|>"])),
        ("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", ids["<|eot|>"])),
    ]


def gguf_keys(config, directory):
    rope = config.get("rope_parameters") or {}
    numbers = {
        "block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"], "feed_forward_length": config["intermediate_size_mlp"],
        "expert_feed_forward_length": config["intermediate_size"], "expert_count": config["num_local_experts"],
        "expert_used_count": config["num_experts_per_tok"], "vocab_size": config["vocab_size"],
        "interleave_moe_layer_step": config["interleave_moe_layer_step"],
        "attention.head_count": config["num_attention_heads"], "attention.key_length": config["head_dim"],
        "attention.head_count_kv": config["num_key_value_heads"], "rope.dimension_count": config["head_dim"],
    }  # fmt: skip
    reals = {"attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
             "rope.freq_base": rope.get("rope_theta", config.get("rope_theta"))}  # fmt: skip
    keys = [("general.architecture", STRING, text("llama4"))]
    keys += [("llama4." + key, U32, struct.pack("<I", value)) for key, value in numbers.items()]
    keys += [("llama4." + key, F32, struct.pack("<f", value)) for key, value in reals.items()]
    path = os.path.join(directory, "tokenizer.json")
    return keys + (tokenizer_keys(path) if os.path.exists(path) else [])


def main():
    directory, out_path = sys.argv[1:]
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    keys = gguf_keys(config, directory)
    tensors = gguf_tensors(config, read_tensors(directory))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    header += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in keys)
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        header += struct.pack("<IQ", GGUF_TYPE[dtype], offset)
        offset += -(-len(data) // ALIGNMENT) * ALIGNMENT
    with open(out_path, "wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for _, _, data in tensors.values():
            file.write(data + bytes(-len(data) % ALIGNMENT))


main()
