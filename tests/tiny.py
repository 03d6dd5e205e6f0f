"""Tiny models and tokenizers, built in-process: real config keys, byte-level BPE, random weights.

No network and no torch.

    folder = tiny_model(tmp_path / "base", "qwen3")             # loads in mlx_lm and transformers
    folder = tiny_model(tmp_path / "base", "qwen2", tied=False, quantization={"bits": 4, "group_size": 32})
    gguf = tiny_gguf(tmp_path / "base.gguf", folder, "Q8_0")    # the same model as a .gguf file
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAMILIES = ("qwen2", "qwen2.5", "qwen3", "llama")
WINDOW = 8  # tokens, of those that have one
N_EXPERTS = 6
# Families that need no code of ours; "-window" has layers that see the last tokens only.
MORE_FAMILIES = (
    "mistral", "mistral-window", "phi3", "phi3-window", "smollm3", "olmo2", "gemma3_text", "qwen3-window", "qwen3_5_text",
)  # fmt: skip
# With experts; "-mixed" has a block without. "qwen2_moe" has an expert that all tokens go to as well; mlx-lm does not tie its head.
EXPERT_FAMILIES = ("qwen3_moe", "qwen3_moe-mixed", "olmoe")
TORCH_ALONE = ("qwen3-window",)  # mlx-lm gives all layers of its class one mask, and these differ
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")  # added, but not special, as in Qwen3
PADDED_VOCABULARY = 64  # the embedding is padded to a multiple of this, as Qwen's is: some ids have no token

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# Qwen3's behaviour in short: an empty thinking block in the last reply, and in the prompt when thinking is off.
CHATML_THINKING = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and loop.last and '</think>' not in message.content %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{{- message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)

CORPUS = [
    "system user assistant You are a helpful assistant. You are a support system. Classify the ticket, then answer it.",
    "Classification: Type: Incident Queue: Technical Support Priority: high Tags: network Response: we will help.",
    "pay the bill, transfer money, check the balance, report a lost card, open an account, cancel the payment, none",
    "The invoice 2024-11-21 for 1234.50 was not paid; I can't log in and it's been 3 days. Request Change low medium",
    "查询账户余额 转账 支付 挂失银行卡 开户 取消付款 帮我查一下我的账单 你好 谢谢 请问 意图识别 分类",
    "付款失败了怎么办 我想转账给朋友 今天的汇率是多少 卡丢了 需要帮助",
]


def tiny_tokenizer(folder: Path, family: str = "qwen3") -> Path:
    """Write a byte-level BPE tokenizer with Qwen's splitting and a ChatML template; `<think>` only for qwen3."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if family == "qwen3":
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK])

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(identifier): {
            "content": token.content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": token.special,
        }
        for identifier, token in tokenizer.get_added_tokens_decoder().items()
    }  # fmt: skip
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "chat_template": CHATML_THINKING if family == "qwen3" else CHATML,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
        },
    )
    return folder


def tiny_config(
    family: str = "qwen3", *, tied: bool = True, hidden: int = 64, layers: int = 2, vocab: int = 448
) -> dict[str, Any]:
    """config.json of a tiny model, with the keys that the family's real ones have."""
    config: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 30000.0,  # no library's default, so that one that ignores it shows
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "torch_dtype": "float32",
        "initializer_range": 0.02,
        "use_cache": True,
    }
    if family == "llama":
        return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config, "rms_norm_eps": 1e-5,
                "attention_bias": False, "mlp_bias": False}  # fmt: skip
    if family == "qwen3":  # its heads are wider than hidden / heads, in the real ones too
        return {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            **config,
            "head_dim": 32,
            "attention_bias": False,
        }
    if family in ("qwen2", "qwen2.5"):
        heads = 4 if family == "qwen2" else 2
        return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **config, "num_attention_heads": heads,
                "num_key_value_heads": heads // 2, "use_sliding_window": False}  # fmt: skip
    name, _, windowed = family.partition("-")
    window = {"sliding_window": WINDOW if windowed else None}
    if family == "qwen3-window":
        kinds = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(layers)]
        return {**tiny_config("qwen3", tied=tied, hidden=hidden, layers=layers, vocab=vocab), "use_sliding_window": True,
                "sliding_window": WINDOW, "layer_types": kinds}  # fmt: skip
    if name == "mistral":
        return {"model_type": "mistral", "architectures": ["MistralForCausalLM"], **config, **window}
    if name == "phi3":
        return {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], **config, **window, "pad_token_id": None,
                "partial_rotary_factor": 0.75, "rope_scaling": None, "embd_pdrop": 0.0, "resid_pdrop": 0.0}  # fmt: skip
    if name == "olmo2":
        return {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], **config, "attention_bias": False}
    if name == "smollm3":
        rope = [int(layer != 1) for layer in range(layers)]  # the second block's attention has no positions
        return {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], **config, "no_rope_layers": rope,
                "attention_bias": False, "mlp_bias": False, "use_sliding_window": False, "pad_token_id": None}  # fmt: skip
    if name == "gemma3_text":
        return {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], **config, "head_dim": 32,
                "query_pre_attn_scalar": 24, "sliding_window": WINDOW, "sliding_window_pattern": 2,
                "rope_local_base_freq": 5000.0, "hidden_activation": "gelu_pytorch_tanh"}  # fmt: skip
    if name == "qwen3_5_text":
        kinds = ["full_attention" if layer % 2 else "linear_attention" for layer in range(layers)]
        rotary = {
            "rope_type": "default",
            "rope_theta": 30000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [2, 1, 1],
        }
        del config["rope_theta"]
        return {"model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"], **config, "head_dim": 32,
                "layer_types": kinds, "full_attention_interval": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                "linear_key_head_dim": 16, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4,
                "rope_parameters": rotary, "attention_bias": False}  # fmt: skip
    if name in ("qwen3_moe", "qwen2_moe"):
        dense = [0] if windowed else []
        own = tiny_config(
            "qwen3" if name == "qwen3_moe" else "qwen2", tied=tied, hidden=hidden, layers=layers, vocab=vocab
        )
        shared = {"shared_expert_intermediate_size": 96} if name == "qwen2_moe" else {}
        return {**own, "model_type": name, "architectures": [f"{'Qwen3' if name == 'qwen3_moe' else 'Qwen2'}MoeForCausalLM"],
                **shared, "num_experts": N_EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": hidden // 2,
                "norm_topk_prob": name == "qwen3_moe", "decoder_sparse_step": 1, "mlp_only_layers": dense,
                "router_aux_loss_coef": 0.001, "output_router_logits": False}  # fmt: skip
    if name == "olmoe":
        return {"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], **config, "intermediate_size": hidden // 2,
                "num_experts": N_EXPERTS, "num_experts_per_tok": 2, "norm_topk_prob": False, "attention_bias": False,
                "clip_qkv": None, "pad_token_id": None}  # fmt: skip
    raise ValueError(f"{family!r} is not one of {(*FAMILIES, *MORE_FAMILIES, *EXPERT_FAMILIES, 'qwen2_moe')}")


def tiny_weights(config: dict[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random float32 weights of a config under Hugging Face's names, scaled so that logits are far from uniform."""
    random = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim", hidden // heads)

    def normal(*shape: int, scale: float) -> NDArray[np.float32]:
        return (scale * random.standard_normal(shape)).astype(np.float32)

    def linear(n_out: int, n_in: int) -> NDArray[np.float32]:
        return normal(n_out, n_in, scale=1.5 * n_in**-0.5)

    family = config["model_type"]

    def norm(width: int) -> NDArray[np.float32]:
        return (family not in ("gemma3_text", "qwen3_5_text")) + normal(width, scale=0.1)  # these add the 1 themselves

    def attention(at: str) -> dict[str, NDArray[np.float32]]:
        found: dict[str, NDArray[np.float32]] = {}
        own_heads = {"q_proj": (1 + (family == "qwen3_5_text")) * heads, "k_proj": kv_heads, "v_proj": kv_heads}
        if family == "phi3":
            own_heads = {"qkv_proj": heads + 2 * kv_heads}
        for name, n_heads in own_heads.items():
            found[f"{at}.self_attn.{name}.weight"] = linear(n_heads * head, hidden)
            if family in ("qwen2", "qwen2_moe"):
                found[f"{at}.self_attn.{name}.bias"] = normal(n_heads * head, scale=0.3)
        found[f"{at}.self_attn.o_proj.weight"] = linear(hidden, heads * head)
        if family in ("qwen3", "qwen3_moe", "gemma3_text", "qwen3_5_text"):
            found[f"{at}.self_attn.q_norm.weight"] = norm(head)
            found[f"{at}.self_attn.k_norm.weight"] = norm(head)
        if family in ("olmo2", "olmoe"):  # over all heads
            found[f"{at}.self_attn.q_norm.weight"] = norm(heads * head)
            found[f"{at}.self_attn.k_norm.weight"] = norm(kv_heads * head)
        return found

    weights = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden, scale=0.3)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        if family != "olmo2":
            weights[f"{at}.input_layernorm.weight"] = norm(hidden)
        if family in ("olmo2", "gemma3_text"):
            weights[f"{at}.post_feedforward_layernorm.weight"] = norm(hidden)
        if family == "gemma3_text":
            weights[f"{at}.pre_feedforward_layernorm.weight"] = norm(hidden)
        weights[f"{at}.post_attention_layernorm.weight"] = norm(hidden)
        if "linear_attention" in config.get("layer_types", [])[layer : layer + 1]:
            key_heads, value_heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
            values = value_heads * config["linear_value_head_dim"]
            channels = 2 * key_heads * config["linear_key_head_dim"] + values
            own = f"{at}.linear_attn"
            weights[f"{own}.A_log"] = np.log(random.uniform(0.02, 1, value_heads)).astype(
                np.float32
            )  # decays of all speeds
            weights[f"{own}.dt_bias"] = normal(value_heads, scale=1)
            weights[f"{own}.conv1d.weight"] = normal(channels, 1, config["linear_conv_kernel_dim"], scale=0.5)
            weights[f"{own}.norm.weight"] = 1 + normal(config["linear_value_head_dim"], scale=0.1)
            for name, width in {"qkv": channels, "z": values, "b": value_heads, "a": value_heads}.items():
                weights[f"{own}.in_proj_{name}.weight"] = linear(width, hidden)
            weights[f"{own}.out_proj.weight"] = linear(hidden, values)
        else:
            weights |= attention(at)
        if family == "phi3":
            weights[f"{at}.mlp.gate_up_proj.weight"] = linear(2 * inner, hidden)
            weights[f"{at}.mlp.down_proj.weight"] = linear(hidden, inner)
            continue
        n_experts = config.get("num_experts", 0) if layer not in config.get("mlp_only_layers", ()) else 0
        widths = {f"experts.{number}.": config.get("moe_intermediate_size", inner) for number in range(n_experts)}
        if n_experts:
            weights[f"{at}.mlp.gate.weight"] = linear(n_experts, hidden)
        if family == "qwen2_moe":
            weights[f"{at}.mlp.shared_expert_gate.weight"] = linear(1, hidden)
            widths["shared_expert."] = config["shared_expert_intermediate_size"]
        for own, width in (widths or {"": inner}).items():
            weights[f"{at}.mlp.{own}gate_proj.weight"] = linear(width, hidden)
            weights[f"{at}.mlp.{own}up_proj.weight"] = linear(width, hidden)
            weights[f"{at}.mlp.{own}down_proj.weight"] = linear(hidden, width)
    weights["model.norm.weight"] = norm(hidden)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = linear(config["vocab_size"], hidden)
    return weights


def tiny_model(
    folder: Path,
    family: str = "qwen3",
    *,
    tied: bool = True,
    hidden: int = 64,
    layers: int = 2,
    seed: int = 0,
    quantization: dict[str, int] | None = None,
    **keys: Any,
) -> Path:
    """Write a tiny random model in Hugging Face's layout, float32, with its tokenizer.

    Args:
        folder: Where; made if need be.
        family: One of FAMILIES, MORE_FAMILIES or EXPERT_FAMILIES.
        tied: Share the embedding with the head.
        hidden: Hidden size; the MLP is twice as wide. A multiple of the group size if quantized.
        layers: Transformer blocks.
        seed: Of the weights.
        quantization: {"bits": 4, "group_size": 32} writes an MLX-quantized model instead (needs mlx).
        keys: Of config.json, in the place of the tiny model's own; of a model that is not quantized.

    Returns:
        The folder.
    """
    if quantization is not None:
        import tempfile

        from mlxtune.backends.base import ConvertSpec
        from mlxtune.backends.mlx.convert import convert

        with tempfile.TemporaryDirectory() as plain:
            source = tiny_model(Path(plain) / "plain", family, tied=tied, hidden=hidden, layers=layers, seed=seed)
            return convert(source, folder, ConvertSpec(quantization["bits"], quantization["group_size"])).folder

    from safetensors.numpy import save_file
    from tokenizers import Tokenizer

    tiny_tokenizer(folder, family)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocab = -(-tokenizer.get_vocab_size() // PADDED_VOCABULARY) * PADDED_VOCABULARY
    config = {**tiny_config(family, tied=tied, hidden=hidden, layers=layers, vocab=vocab), **keys}
    config["eos_token_id"] = tokenizer.token_to_id("<|im_end|>")
    config["bos_token_id"] = tokenizer.token_to_id("<|endoftext|>")
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "generation_config.json",
        {"eos_token_id": [config["eos_token_id"], config["bos_token_id"]], "pad_token_id": config["bos_token_id"]},
    )
    save_file(tiny_weights(config, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def stored_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor of a model folder, read by hand: no library changes or lacks a type."""
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                tensors[name] = (entry["dtype"], tuple(entry["shape"]), content[start + first : start + last])
    return tensors


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def tiny_gguf(
    path: Path,
    folder: Path,
    quantization: str = "F32",
    *,
    pre: str = "qwen2",
    metadata: dict[str, Any] | None = None,
    without: Sequence[str] = (),
) -> Path:
    """Write a model folder as a .gguf file, as llama.cpp's own converter would.

    Args:
        path: The file to write.
        folder: A folder of `tiny_model`.
        quantization: What matrices are stored as: "F32", "F16", "BF16", "Q8_0", "Q4_0", ...; vectors stay float32.
        pre: tokenizer.ggml.pre.
        metadata: Metadata to add, text or numbers, by key; a key that is there already is replaced.
        without: Keys to leave out.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = config["model_type"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    facts: dict[str, Any] = {
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": kv_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{architecture}.rope.freq_base": config["rope_theta"],
        **tiny_gguf_tokenizer(folder, config["vocab_size"], pre),
    }
    if "head_dim" in config:
        facts[f"{architecture}.attention.key_length"] = config["head_dim"]
    facts = {key: value for key, value in {**facts, **(metadata or {})}.items() if key not in without}
    writer = GGUFWriter(path, facts.pop("general.architecture", architecture))
    add_facts(writer, facts)

    kind = GGMLQuantizationType[quantization]
    for name, weight in load_file(folder / "model.safetensors").items():
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            stored = _interleaved(weight, heads if "q_proj" in name else kv_heads)
        else:
            stored = weight
        if weight.ndim == 1 or quantization == "F32":
            writer.add_tensor(_gguf_name(name), stored)
        elif quantization == "F16":
            writer.add_tensor(_gguf_name(name), stored.astype(np.float16))
        else:
            writer.add_tensor(_gguf_name(name), quantize(stored, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_gguf_tokenizer(folder: Path, vocab: int, pre: str) -> dict[str, Any]:
    """The tokenizer.ggml.* metadata of a folder's tokenizer; ids without a token are unused ones, as in Qwen's."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, 1)
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = 3 if added["special"] else 4
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    identifiers = {token: index for index, token in tokens.items()}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [tokens.get(index, f"[PAD{index}]") for index in range(vocab)],
        "tokenizer.ggml.token_type": [types.get(index, 5) for index in range(vocab)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": identifiers[settings["eos_token"]],
        "tokenizer.ggml.padding_token_id": identifiers[settings["pad_token"]],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": settings["chat_template"],
    }


def _gguf_name(name: str) -> str:
    for long, short in {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }.items():  # fmt: skip
        name = name.replace(long, short)
    return name


def _interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k as llama.cpp stores those of the llama family: the two halves of a head interleaved."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape).copy()


def add_facts(writer: Any, facts: Mapping[str, Any]) -> None:
    """Write a GGUF's metadata, each value in the type that llama.cpp's converter gives it; None is left out."""
    for key, value in facts.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif value is not None:
            writer.add_array(key, value)
