"""The artifacts that `mlxtune verify` knows: how each is made from a run, found, and loaded again to be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import Backend, ConvertSpec, Model
from mlxtune.backends.group import together
from mlxtune.backends.shared_model import shared_model
from mlxtune.errors import ExportError, Misuse, MlxtuneError, did_you_mean
from mlxtune.export.exported import ExportNotWritten, size_on_disk
from mlxtune.export.formats import default_out, export_run
from mlxtune.export.gguf_adapter import read_gguf_lora
from mlxtune.export.options import GGUF_TYPES, ExportOptions
from mlxtune.export.peft_adapter import read_peft
from mlxtune.export.source import ExportSource
from mlxtune.files import temporary_folder
from mlxtune.models.base_model import fingerprint
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.models.writing import CannotWrite
from mlxtune.runs.folder import RunFolder


@dataclass(frozen=True)
class ArtifactKind:
    """A format with its options, under the name that `verify --artifacts` gives it."""

    name: str
    to: str
    options: ExportOptions = field(default_factory=ExportOptions)


@dataclass(frozen=True)
class Artifact:
    """One artifact of a run on disk.

    Attributes:
        kind: What it is.
        path: File or folder.
        kept: Whether it was there already; one made for this verification is removed afterwards.
    """

    kind: ArtifactKind
    path: Path
    kept: bool

    @property
    def n_bytes(self) -> int:
        """Size of all its files."""
        return size_on_disk(self.path)


KINDS = {
    one.name: one
    for one in (
        ArtifactKind("fused", "mlx"),
        ArtifactKind("q8", "mlx", ExportOptions(quantize=8)),
        ArtifactKind("q4", "mlx", ExportOptions(quantize=4)),
        ArtifactKind("hf", "hf"),
        ArtifactKind("peft", "peft"),
        ArtifactKind("gguf", "gguf", ExportOptions(type="f16")),
        *(ArtifactKind(f"gguf-{kind}", "gguf", ExportOptions(type=kind)) for kind in GGUF_TYPES),
        ArtifactKind("gguf-lora", "gguf-lora"),
    )
}
DEFAULT = ("fused", "q8", "q4", "gguf")


def parse_kinds(text: str) -> list[ArtifactKind]:
    """The artifacts of a comma-separated list, each once.

    Raises:
        Misuse: None, or one that is not known.

    >>> [kind.to for kind in parse_kinds("fused, q4")]
    ['mlx', 'mlx']
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise Misuse(f"--artifacts: expected some of {', '.join(KINDS)}, got nothing")
    for name in names:
        if name not in KINDS:
            raise Misuse(f"--artifacts: {name!r} is not one of {', '.join(KINDS)}{did_you_mean(name, KINDS)}")
    return [KINDS[name] for name in names]


@contextmanager
def artifact(kind: ArtifactKind, run: RunFolder, backend: Backend) -> Iterator[Artifact]:
    """An artifact of a run: the one already in it, or a temporary one.

    What lies there counts if it is newer than the adapter: an older one was made from another.

    Args:
        kind: Which.
        run: With an adapter.
        backend: Computes.

    Raises:
        ExportError: It cannot be made; or the one that lies there cannot be loaded, as the block found.
    """
    places = [default_out(run, kind.to, kind.options)]
    if kind.name == "fused":
        places.insert(0, run.fused)
    trained_time = run.trained.stat().st_mtime
    for place in places:
        if place.exists() and place.stat().st_mtime >= trained_time:
            try:
                yield Artifact(kind, place, kept=True)
            except (CannotWrite, ExportNotWritten):
                raise  # of what was made of it
            except MlxtuneError as error:
                raise ExportError(f"{error}; it was taken from the run: delete {place} to have it made anew") from error
            return
    with temporary_folder(run.path, "verify") as folder:
        out = folder / default_out(run, kind.to, kind.options).name
        export_run(run, kind.to, out, backend, kind.options)
        yield Artifact(kind, out, kept=False)


@contextmanager
def shared_artifact(kind: ArtifactKind, run: RunFolder, backend: Backend) -> Iterator[Artifact]:
    """As `artifact`; of several processes rank 0 makes it, and all load it from where it lies.

    Raises:
        ExportError: A process does not see rank 0's files, or as `artifact`.
    """
    group = backend.group()
    if group.size == 1:
        with artifact(kind, run, backend) as one:
            yield one
        return
    with ExitStack() as stack:
        with together(group, patient=True) as report:
            if group.rank == 0:
                one = stack.enter_context(artifact(kind, run, backend))
                report.value = {"path": str(one.path.resolve()), "kept": one.kept}
        one = Artifact(kind, Path(report.values[0]["path"]), report.values[0]["kept"])
        with together(group, patient=True):  # it is removed once all are done with it
            if not one.path.exists():
                raise ExportError(f"{one.path}: is not on this machine; verify with processes that see the run folder")
            yield one


@contextmanager
def loaded(one: Artifact, source: ExportSource, backend: Backend) -> Iterator[tuple[Model, Tokenizer, str]]:
    """An artifact as a model that can be asked, its own tokenizer, and what tells it from others.

    Args:
        one: The artifact.
        source: The run; its base model carries an artifact that is an adapter alone.
        backend: Loads it; a GGUF is read back by `convert`.
    """
    dtype, shard = source.recipe.model.dtype, source.recipe.model.shard
    with temporary_folder(source.run.path, "verify") as temporary:
        folder = temporary / "read-back"
        if one.kind.to in ("peft", "gguf-lora"):
            adapter = (
                read_peft(one.path).adapter if one.kind.to == "peft" else read_gguf_lora(one.path, source.architecture)
            )
            write_adapter(folder, adapter, source.config["num_hidden_layers"])
            model = shared_model(backend.load(source.base, folder, dtype, shard))
            yield model, load_tokenizer(source.base), _adapter_hash(adapter)
            return
        if one.kind.to == "gguf":
            backend.convert(one.path, folder, ConvertSpec())
        else:
            folder = one.path
        model = shared_model(backend.load(folder, None, dtype, shard))
        yield model, load_tokenizer(folder), fingerprint(folder)


def _adapter_hash(adapter: Adapter) -> str:
    import hashlib

    digest = hashlib.sha256(repr(adapter.spec).encode())
    for name in sorted(adapter.weights):
        digest.update(adapter.weights[name].tobytes())
    return digest.hexdigest()
