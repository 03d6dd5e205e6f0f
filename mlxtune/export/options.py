"""What `mlxtune export` can be told: the formats, and the options that each of them takes. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from mlxtune.errors import Misuse

# Format -> the options of ExportOptions that it takes.
FORMATS: dict[str, tuple[str, ...]] = {
    "peft": (),
    "hf": ("dtype",),
    "mlx": ("quantize", "group_size", "dtype"),
    "gguf": ("type", "base"),
    "gguf-lora": (),
    "ollama": ("type", "adapter_only"),
}
HUB = "hub"  # where --to is no format but a place
UPLOADS = (
    "peft",
    "hf",
    "mlx",
    "gguf",
    "gguf-lora",
)  # the formats that may go there, the first unless the user says another
COMPUTED = ("hf", "mlx")  # formats that a backend writes and proves; the rest need one only to read a base model
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1")
GGUF_TYPE = "f16"  # unless the user says another
GROUP_SIZE = 64  # likewise


@dataclass(frozen=True)
class ExportOptions:
    """What a user may choose, each for some formats only; None is a format's default.

    Attributes:
        type: Of a GGUF's weights: "f16", "q8_0".
        quantize: Bits of an MLX model's weights.
        group_size: Weights that share a scale there.
        dtype: Type of plain fused weights.
        base: Leave the adapter out.
        adapter_only: Name of the model in Ollama that the adapter is put on.
    """

    type: str | None = None
    quantize: int | None = None
    group_size: int | None = None
    dtype: str | None = None
    base: bool | None = None
    adapter_only: str | None = None


def check_options(to: str, options: ExportOptions) -> None:
    """Raise Misuse where an option is given that a format would ignore."""
    for name in (one.name for one in fields(options)):
        if getattr(options, name) not in (None, False) and name not in FORMATS[to]:
            takers = " and ".join(one for one, taken in FORMATS.items() if name in taken)
            raise Misuse(f"--{name.replace('_', '-')} is an option of {takers}, not of {to}; leave it out")
    if options.group_size is not None and options.quantize is None:
        raise Misuse("--group-size says how --quantize packs weights; give both, or neither")
    if options.adapter_only is not None and len(options.adapter_only.split()) != 1:
        raise Misuse(
            f"--adapter-only: expected the name of a model in Ollama, as qwen3:0.6b, got {options.adapter_only!r}"
        )
    if options.adapter_only is not None and options.type is not None:
        raise Misuse("--type is the type of a whole model's weights, and --adapter-only writes none; give one of them")


@dataclass(frozen=True)
class UploadOptions:
    """What is uploaded, and how.

    Attributes:
        artifact: One of UPLOADS.
        options: Of that format.
        public: Whether everybody may read the repository.
        force: Replace files that are there.
    """

    artifact: str = UPLOADS[0]
    options: ExportOptions = field(default_factory=ExportOptions)
    public: bool = False
    force: bool = False


def check_upload(upload: UploadOptions) -> None:
    """Raise Misuse where an option is given that the artifact would ignore."""
    check_options(upload.artifact, upload.options)
    if upload.options.base:
        raise Misuse("--base leaves the adapter out, which is what a repository of the run is about; leave --base out")
