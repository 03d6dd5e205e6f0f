"""`mlxtune export`: where each format goes, and who writes it."""

from __future__ import annotations

from pathlib import Path

from mlxtune.backends.base import Backend
from mlxtune.export.exported import Exported
from mlxtune.export.fused_folder import export_hf, export_mlx
from mlxtune.export.gguf_adapter import export_gguf_lora
from mlxtune.export.gguf_model import export_gguf
from mlxtune.export.ollama import export_ollama
from mlxtune.export.options import GGUF_TYPE, GROUP_SIZE, ExportOptions, check_options
from mlxtune.export.peft_adapter import export_peft
from mlxtune.export.source import open_source
from mlxtune.runs.folder import RunFolder


def default_out(run: RunFolder, to: str, options: ExportOptions) -> Path:
    """Where an export goes unless its user says another place: in the run, named after what it is.

    >>> default_out(RunFolder(Path("runs/intent/a")), "gguf", ExportOptions(type="q8_0"))
    PosixPath('runs/intent/a/exports/intent-Q8_0.gguf')
    """
    name = run.path.absolute().parent.name
    kind = (options.type or GGUF_TYPE).upper()
    special = {
        "gguf": f"{f'{name}-base' if options.base else name}-{kind}.gguf",
        "gguf-lora": f"{name}-lora.gguf",
        "mlx": "mlx" if options.quantize is None else f"mlx-{options.quantize}bit",
        "ollama": "ollama" if options.adapter_only is None else "ollama-adapter",
    }
    return run.exports / special.get(to, to)


def export_run(
    run: RunFolder, to: str, out: Path, backend: Backend, options: ExportOptions, *, force: bool = False
) -> Exported:
    """Write a run in a format.

    Args:
        run: With an adapter.
        to: One of FORMATS.
        out: File or folder to write, whole or not at all.
        backend: Computes, and converts the base model where that is needed.
        options: Those that the format takes.
        force: Replace what an earlier export wrote there.

    Raises:
        Misuse: An option is given that the format does not take.
        RunError: The run has no adapter.
        ModelError, AdapterError, ExportError: What is wrong with base, adapter or `out`.
    """
    check_options(to, options)
    source = open_source(run, backend, base_only=bool(options.base))
    kind = options.type or GGUF_TYPE
    if to == "peft":
        return export_peft(source, out, force=force)
    if to == "hf":
        return export_hf(source, backend, out, dtype=options.dtype, force=force)
    if to == "mlx":
        size = options.group_size or GROUP_SIZE
        bits, dtype = options.quantize, options.dtype
        return export_mlx(source, backend, out, bits=bits, group_size=size, dtype=dtype, force=force)
    if to == "gguf":
        return export_gguf(source, out, kind, force=force)
    if to == "gguf-lora":
        return export_gguf_lora(source, out, force=force)
    return export_ollama(source, out, kind, adapter_only=options.adapter_only, force=force)
