"""The weights of a model folder as tensors, read and written one layer at a time; nothing is computed here.

    with open_checkpoint(folder) as checkpoint:                        # checked against config.json
        write_checkpoint(out, checkpoint.config, checkpoint, change)   # change: a layer's tensors -> the new ones

A layer is a name with its parts: "model.layers.0.mlp.up_proj" with "weight", and "scales" and "biases" if it is packed.
Files have the layers of experts each by itself (Hugging Face's), or stacked (mlx-lm's); both are read, each expert as a layer.
Written are plain ones by themselves, which transformers and mlx-lm read, and packed ones stacked, as mlx-lm alone reads them.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mlxtune.backends.experts import are_turned, is_stack, number_of, parts_of, stack_of, stacks_in
from mlxtune.backends.stored_form import CONVOLUTION, MORE_TOKENS, NORMS, is_mlx_lm_form
from mlxtune.backends.torch.affine import BITS, Packing, Quantization, from_words, packing_of, read_quantization
from mlxtune.backends.torch.architecture import architecture
from mlxtune.errors import ModelError
from mlxtune.models.source import check_folder, read_config, settled, weight_files
from mlxtune.models.text_part import text_name

MAX_FILE_BYTES = 5 << 30  # mlx-lm's
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U32": torch.uint32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Parts = Mapping[str, Tensor]
# (layer, its parts) -> the parts to write. It is called twice: on tensors without data first, for their shapes and types.
Change = Callable[[str, Parts], Parts]


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a model folder, which fit its config.

    Attributes:
        folder: The model.
        config: config.json, settled as mlx-lm reads and writes it.
        layers: Layer -> its parts without their data ("meta" tensors), in the order in which mlx-lm writes them.
        packings: Of the layers that are packed.
    """

    folder: Path
    config: dict[str, Any]
    layers: Mapping[str, Parts]
    packings: Mapping[str, Packing]
    _places: Mapping[str, _Place]
    _is_mlx_lm_form: bool

    def read(self, layer: str) -> dict[str, Tensor]:
        """The parts of a layer; a packed weight is uint32, as in the file."""
        names = {part: f"{layer}.{part}" for part in self.layers[layer]}
        try:
            found = {part: self._places[name].read() for part, name in names.items()}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{self.folder}: {layer} cannot be read: {error}") from error
        if not self._is_mlx_lm_form:
            return found
        return {part: _as_hugging_face(names[part], value) for part, value in found.items()}


@dataclass(frozen=True)
class _Place:
    """Where a tensor is.

    Attributes:
        file: An open file.
        name: Its name there.
        number: Which part of the tensor of that name it is, if that is a stack.
        rows: Which rows of the part, if that is of several layers; None is all.
        is_turned: Whether the part has columns for rows.
    """

    file: Any
    name: str
    number: int | None = None
    rows: slice | None = None
    is_turned: bool = False

    def read(self) -> Tensor:
        if self.number is None:
            return self.file.get_tensor(self.name)  # type: ignore[no-any-return]
        part: Tensor = self.file.get_slice(self.name)[self.number]
        part = part.T if self.is_turned else part
        return part.contiguous() if self.rows is None else part[self.rows].contiguous()


@contextlib.contextmanager
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """The weights of a model folder, Hugging Face's or MLX's, whose files stay open meanwhile.

    Left out, as by mlx-lm, are the head of a tied model, also a packed one, precomputed rotary frequencies, layers that predict further
    tokens (`mtp`), and parts of a multimodal model that are not text. Weights are in Hugging Face's form, also where the folder has them
    in mlx-lm's.

    Raises:
        ModelError: The folder is not whole, is quantized in another way than MLX's affine one, or its weights are not
            those that the config describes; names the first.
    """
    check_folder(folder, str(folder))
    config = read_config(folder)
    config.update(settled(folder, config))
    quantization = read_quantization(config, folder)
    with contextlib.ExitStack() as stack:
        places: dict[str, _Place] = {}
        found: dict[str, Tensor] = {}
        for path in weight_files(folder):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
                for name in file.keys():  # noqa: SIM118 - no mapping
                    plain = text_name(name)
                    if plain is None or _is_left_out(plain, config):
                        continue
                    tensor = _empty(file.get_slice(name), f"{path}: {name}")
                    if not is_stack(plain):
                        found[plain], places[plain] = tensor, _Place(file, name)
                        continue
                    for part in parts_of(plain, len(tensor)):
                        found[part], places[part] = tensor[0], _Place(file, name, number_of(part))
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{path}: cannot be read: {error}; download it again") from error
        _take_apart(found, places, config)
        has_mlx_lm_form = is_mlx_lm_form({name: tuple(weight.shape) for name, weight in found.items()})
        if has_mlx_lm_form:
            found = {name: _as_hugging_face(name, weight) for name, weight in found.items()}
        layers, packings = _layers(found, config, quantization, folder)
        yield Checkpoint(folder, config, layers, packings, places, has_mlx_lm_form)


def write_checkpoint(folder: Path, config: dict[str, Any], checkpoint: Checkpoint, change: Change) -> int:
    """Write config and weights as mlx-lm does, with an index and files of at most 5 GiB.

    One layer is in memory at a time, which no writer of safetensors does: their files are laid out first, then filled.

    Args:
        folder: An empty folder.
        config: config.json of what is written.
        checkpoint: What to read.
        change: What to make of each layer. Names, shapes and types of its result may not depend on the values.

    Returns:
        Bytes of all weights.
    """
    found: dict[str, list[Tensor]] = {}
    for layer, parts in checkpoint.layers.items():
        written = change(layer, parts)
        for part, tensor in written.items():
            found.setdefault(_written_name(layer, part, written), []).append(tensor)
    empty = {name: torch.stack(tensors) if is_stack(name) else tensors[0] for name, tensors in found.items()}
    shards = _shards(empty)
    files = {
        name: ("model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors")
        for number, shard in enumerate(shards, start=1)
        for name in shard
    }
    starts: dict[str, int] = {}
    for shard in shards:
        starts |= _lay_out(folder / files[next(iter(shard))], shard)
    for layer in checkpoint.layers:
        written = change(layer, checkpoint.read(layer))
        for part, tensor in written.items():
            name = _written_name(layer, part, written)
            with (folder / files[name]).open("r+b") as stream:
                stream.seek(starts[name] + (number_of(layer) * tensor.nbytes if is_stack(name) else 0))
                stream.write(tensor.contiguous().view(torch.uint8).numpy().data)
    total = sum(tensor.nbytes for tensor in empty.values())
    metadata = {"total_size": total, "total_parameters": architecture(config).n_parameters}
    index = {"metadata": metadata, "weight_map": dict(sorted(files.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=4), encoding="utf-8")
    _write_config(folder / "config.json", config)
    return total


# Reading ---------------------------------------------------------------------------------------------------------


def _is_left_out(name: str, config: Mapping[str, Any]) -> bool:
    if name.startswith(MORE_TOKENS) or "self_attn.rotary_emb.inv_freq" in name:
        return True
    return bool(config["tie_word_embeddings"]) and name.startswith("lm_head.")


def _as_hugging_face(name: str, weight: Tensor) -> Tensor:
    """A weight of mlx-lm's form as Hugging Face's files have it."""
    if name.endswith(CONVOLUTION):
        return weight.movedim(1, 2)
    return weight - 1 if name.endswith(NORMS) else weight


def _take_apart(found: dict[str, Tensor], places: dict[str, _Place], config: Mapping[str, Any]) -> None:
    """Put the layers of single experts in the place of fused tensors."""
    turned = are_turned({name: tuple(tensor.shape) for name, tensor in found.items()}, config["hidden_size"])
    for name in [name for name in found if stacks_in(name)]:
        stack, place = found.pop(name), places.pop(name)
        stack = stack.transpose(1, 2) if turned else stack
        n_rows = stack.shape[1] // len(stacks_in(name))
        for index, own in enumerate(stacks_in(name)):
            rows = slice(index * n_rows, (index + 1) * n_rows)
            for part in parts_of(own, len(stack)):
                found[part] = stack[0, rows]
                places[part] = _Place(place.file, place.name, number_of(part), rows, turned)


def _empty(stored: Any, name: str) -> Tensor:
    """A tensor of a file, without its data."""
    dtype = stored.get_dtype()
    if dtype not in _DTYPES:
        raise ModelError(f"{name} is of type {dtype}; expected {', '.join(_DTYPES)}")
    return torch.empty(stored.get_shape(), dtype=_DTYPES[dtype], device="meta")


def _layers(
    found: Parts, config: Mapping[str, Any], quantization: Quantization | None, folder: Path
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Packing]]:
    """The layers of a model, after a check that its weights are all there, of the right shape, and no others.

    Args:
        found: The tensors of the files.
        config: config.json.
        quantization: What the config says of it; None where no layer may be packed.
        folder: For messages.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    packings: dict[str, Packing] = {}
    for name, shape in architecture(config).weights.items():
        layer, _, part = name.rpartition(".")
        expected = {part: shape}
        packing = None
        if part == "weight" and len(shape) == 2 and quantization is not None:
            packing = _packing(found, layer, shape, quantization, folder)
        if packing is not None:
            packings[layer] = packing
            n_out, n_in = shape
            groups = (n_out, n_in // packing.group_size)
            expected = {"weight": (n_out, n_in * packing.bits // 32), "scales": groups, "biases": groups}
        for piece, wanted in expected.items():
            _check_weight(found.get(f"{layer}.{piece}"), wanted, f"{layer}.{piece}", folder)
            tensor = found[f"{layer}.{piece}"]
            if tensor.is_floating_point() == (packing is not None and piece == "weight"):
                kind = "packed integers" if tensor.is_floating_point() else "floating-point numbers"
                raise _misfit(folder, f"{layer}.{piece}: expected {kind}, got {_NAMES[tensor.dtype]}")
            layers.setdefault(layer, {})[piece] = tensor
    known = {f"{layer}.{part}" for layer, parts in layers.items() for part in parts}
    for name in sorted(found.keys() - known):
        raise _misfit(folder, f"{name} is not a weight of this kind of model")
    return layers, packings


def _packing(
    found: Parts, layer: str, shape: tuple[int, ...], quantization: Quantization, folder: Path
) -> Packing | None:
    """How a layer is packed. As mlx-lm: one that the config does not name is if it has scales, in the way its shapes say."""
    if stack_of(layer) in quantization.named:
        return quantization.named[stack_of(layer)]
    if f"{layer}.scales" not in found:
        return None
    weight, scales = found.get(f"{layer}.weight"), found[f"{layer}.scales"]
    if weight is None or weight.dtype != torch.uint32 or not scales.shape:
        raise _misfit(folder, f"{layer} has scales, but no packed weight")
    packing = packing_of(from_words(weight), scales, shape[-1])
    if packing.bits not in BITS or packing.group_size < 1:
        raise _misfit(folder, f"{layer} is packed in {packing.bits} bits; PyTorch reads {' and '.join(map(str, BITS))}")
    return packing


def _check_weight(tensor: Tensor | None, shape: tuple[int, ...], name: str, folder: Path) -> None:
    if tensor is None:
        raise _misfit(folder, f"{name} is missing")
    if tuple(tensor.shape) != shape:
        wanted, got = (" x ".join(map(str, sizes)) for sizes in (shape, tensor.shape))
        raise _misfit(folder, f"{name} should be {wanted}, got {got}")


def _misfit(folder: Path, what: str) -> ModelError:
    return ModelError(f"{folder}: the weights do not fit config.json: {what}")


# Writing ---------------------------------------------------------------------------------------------------------


def _written_name(layer: str, part: str, parts: Parts) -> str:
    """Under what name a part of a layer is written: of a packed expert, that of its stack."""
    return f"{stack_of(layer) if 'scales' in parts else layer}.{part}"


def _shards(tensors: Parts) -> list[dict[str, Tensor]]:
    """Tensors in the same files as mlx-lm's make_shards puts them; one beyond the limit has a file of its own."""
    shards: list[dict[str, Tensor]] = []
    n_bytes = 0
    for name, tensor in tensors.items():
        if not shards or n_bytes + tensor.nbytes > MAX_FILE_BYTES:
            shards.append({})
            n_bytes = 0
        shards[-1][name] = tensor
        n_bytes += tensor.nbytes
    return shards


def _lay_out(file: Path, tensors: Parts) -> dict[str, int]:
    """Make a safetensors file of the right size, and return where in it each tensor goes.

    Source:
        The format: length of the header (8 bytes, little-endian), the header (JSON), the tensors without a gap. As the
        safetensors library does, wider types go first and the header is padded to 8 bytes, so that every tensor lies
        at a multiple of its type's size; torch reads no others in place.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with file.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name in tensors}


def _write_config(file: Path, config: Mapping[str, Any]) -> None:
    """As mlx-lm's save_config."""
    kept = {key: value for key, value in config.items() if key not in ("_name_or_path", "vision_config")}
    if "quantization" in kept:
        kept["quantization_config"] = kept["quantization"]
    file.write_text(json.dumps(_valid(dict(sorted(kept.items()))), indent=4), encoding="utf-8")


def _valid(value: Any) -> Any:
    """The value with infinities and NaN, which JSON lacks, written as transformers and mlx-lm write them."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        return {key: _valid(inner) for key, inner in value.items()}
    return [_valid(inner) for inner in value] if isinstance(value, list) else value
