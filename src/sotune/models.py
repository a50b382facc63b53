"""The one home of loading a language model and its tokenizer: extraction, training and evaluation call it alike.

Weights are read from safetensors only, since a pickled checkpoint runs whatever code it holds, and a model's own
Python code runs only when its user said so by name.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sotune.artifacts import sha256_file, sha256_json
from sotune.errors import ConfigError, SotuneError, first_line

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "nf4"]

# What decides a model's output: configuration, tokenizer, template, weights, code. Not its README or training logs.
_CONTENT_SUFFIXES = frozenset({".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".py"})
_PICKLED_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
# The file in which sentence-transformers lists the subfolders that belong to a model.
_SENTENCE_MODULES = "modules.json"
_KNOWN_MODULES = frozenset({"Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "StaticEmbedding"})


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model, and how it is held in memory.

    Attributes:
        name: A local folder or a Hub id.
        revision: Branch, tag or commit on the Hub; None for its default branch.
        dtype: Number type of the weights; ``auto`` keeps that of the checkpoint.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        trust_remote_code: Whether Python code that comes with the model may run.
    """

    name: str
    revision: str | None = None
    dtype: DType = "auto"
    device: str = "auto"
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path | None:
        """The model's local folder; None for a Hub id.

        Raises:
            ConfigError: The name is a path, and no folder is there.
        """
        path = Path(self.name).expanduser()
        if path.is_dir():
            return path
        if path.exists() or self.name.startswith((".", "/", "~")) or self.name.count("/") > 1:
            raise ConfigError(f"model folder {self.name} does not exist or is not a folder; check the path")
        return None


def resolve_device(device: str) -> torch.device:
    """Returns the device of that name; ``auto`` is the first of CUDA, MPS and the CPU that is there.

    Raises:
        ConfigError: The name is unknown, or the machine has no such device.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, mps, cuda or cuda:N. Got {device!r}") from None
    n_devices = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if resolved.type in n_devices and (resolved.index or 0) >= n_devices[resolved.type]:
        raise ConfigError(
            f"device {device!r} is not available: this machine has {n_devices[resolved.type]} {resolved.type} "
            f"devices; use device 'auto' or 'cpu'"
        )
    return resolved


def load_config(spec: ModelSpec) -> Any:
    """Loads a model's configuration, without its weights.

    Raises:
        ConfigError: There is none, or it needs code that the user did not allow.
    """
    from transformers import AutoConfig

    with _loading(spec, "configuration"):
        return AutoConfig.from_pretrained(_source(spec), **_hub_options(spec))


def n_positions(config: Any) -> int | None:
    """Returns how many tokens a text model reads at most, by its configuration; None where it does not say."""
    return getattr(config, "max_position_embeddings", None) or None


def load_tokenizer(spec: ModelSpec) -> Any:
    """Loads a model's tokenizer; padding is masked, so that one without a usable padding token pads with another.

    That is the end-of-sequence token, which also takes the place of a padding token that was added to the tokenizer and
    not to the model.

    Raises:
        ConfigError: There is none, or it has neither token.
    """
    tokenizer = read_tokenizer(spec)
    n_embeddings = getattr(load_config(spec).get_text_config(), "vocab_size", None)
    usable = [
        token
        for token in (tokenizer.pad_token, tokenizer.eos_token)
        if token is not None and (n_embeddings is None or tokenizer.convert_tokens_to_ids(token) < n_embeddings)
    ]
    if not usable:
        raise ConfigError(
            f"the tokenizer of {spec.name} has neither a padding nor an end-of-sequence token that the model knows; "
            f"set one of them in its tokenizer_config.json"
        )
    if usable[0] != tokenizer.pad_token:
        tokenizer.pad_token = usable[0]
    return tokenizer


def read_tokenizer(spec: ModelSpec) -> Any:
    """Loads a tokenizer as it is.

    Raises:
        ConfigError: There is none.
    """
    from transformers import AutoTokenizer

    with _loading(spec, "tokenizer"):
        return AutoTokenizer.from_pretrained(_source(spec), **_hub_options(spec))


def load_causal_lm(spec: ModelSpec, *, frozen: bool, quantization: Quantization = "none") -> Any:
    """Loads a causal language model onto its device.

    Args:
        spec: Which model.
        frozen: True to use it as it is: evaluation mode, no parameter takes a gradient. False to train it.
        quantization: How the weights are held. Those in 4 bits take no gradient.

    Raises:
        ConfigError: There is none, its weights are pickled or incomplete, it is no causal language model, or what
            holds weights in 4 bits is not installed.
    """
    from transformers import AutoModelForCausalLM

    hint = "name a checkpoint of a causal language model (an encoder such as BERT is not one)"
    if quantization == "none":
        return _load_whole(AutoModelForCausalLM, spec, hint=hint, frozen=frozen)
    more = {"quantization_config": _nf4(spec), "device_map": {"": resolve_device(spec.device)}}
    model = _load_whole(AutoModelForCausalLM, spec, hint=hint, frozen=True, **more)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # Else bitsandbytes rounds its scales when a CPU first evaluates, for good, and fails below 64 inputs.
            layer.support_avx512bf16_for_cpu = False
    return model.train(not frozen)


def _nf4(spec: ModelSpec) -> Any:
    """Returns QLoRA's quantization: NormalFloat of 4 bits, its scales quantized too; computed in the spec's dtype."""
    from importlib.util import find_spec

    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ConfigError("quantization nf4 needs bitsandbytes; pip install 'sotune[quantized]', or leave it out")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32,
    )


def load_adapted(spec: ModelSpec, adapter: Path | None) -> Any:
    """Loads a causal language model to use it as it is, with a saved adapter or without.

    Where the adapter's folder holds a whole model, tuned from it, that one takes its place.

    Raises:
        ConfigError: See `load_causal_lm`.
    """
    import torch

    if adapter is not None and not (adapter / "adapter_config.json").exists():
        return load_causal_lm(replace(spec, name=str(adapter), revision=None), frozen=True)
    model = load_causal_lm(spec, frozen=True)
    if adapter is None:
        return model
    from peft import PeftModel

    # PEFT draws an adapter at random before it fills it.
    drawn = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    with _loading(ModelSpec(str(adapter)), "adapter"), drawn, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute by its old name
        return PeftModel.from_pretrained(model, str(adapter), use_safetensors=True).eval()


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Puts a model in evaluation mode without gradients, and back afterwards.

    The output layer is given contiguous states meanwhile. A causal LM passes on a slice of each row's states, which
    PyTorch, where neither states nor weights take a gradient, multiplies as a batch: on a CPU with a copy of the whole
    layer for each row, which may take longer than the model itself.
    """
    import torch

    was_training = model.training
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    hook = head.register_forward_pre_hook(_contiguous) if head is not None else None
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        if hook is not None:
            hook.remove()


def _contiguous(_: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.contiguous() for one in states)


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Returns the parameters that take a gradient, by their names."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_merged(spec: ModelSpec, adapter: Path) -> Any:
    """Loads a frozen causal language model with an adapter merged into its weights.

    Raises:
        ConfigError: See `load_causal_lm`.
    """
    model = load_adapted(spec, adapter)
    with _loading(ModelSpec(str(adapter)), "adapter"):
        return model.merge_and_unload(safe_merge=True)


def load_sequence_classifier(spec: ModelSpec) -> Any:
    """Loads a frozen sequence-classification model onto its device.

    Raises:
        ConfigError: There is none, its weights are pickled, or its classification head was never trained.
    """
    from transformers import AutoModelForSequenceClassification

    hint = "name a checkpoint whose classification head is trained (ForSequenceClassification)"
    return _load_whole(AutoModelForSequenceClassification, spec, hint=hint, frozen=True)


def _load_whole(kind: Any, spec: ModelSpec, *, hint: str, frozen: bool, **more: Any) -> Any:
    """Loads a model of an auto class, and refuses one of which a part would be random."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # reading shards is not the work that a user waits for
    device = resolve_device(spec.device)
    if spec.folder is not None:
        _check_weights(spec.folder)
    with _loading(spec, "model"):
        model, report = kind.from_pretrained(
            _source(spec),
            dtype=spec.dtype,
            use_safetensors=True,
            output_loading_info=True,
            **_hub_options(spec),
            **more,
        )
    # transformers fills parameters that the checkpoint lacks with random numbers, and only logs it.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"{spec.name} lacks {len(missing)} of the parameters of a {type(model).__name__}, {missing[0]} among them; "
            f"{hint}"
        )
    if not more:  # what is quantized lies on its device
        model.to(device)
    model.requires_grad_(not frozen)
    return model.train(not frozen)


def model_fingerprint(spec: ModelSpec) -> str:
    """Returns what names a model by its content, in hexadecimal.

    For a folder, a hash of its configuration, tokenizer and weight files, whatever the folder's own name; for a Hub id,
    a hash of the id and the commit that its revision stands for.

    Raises:
        ConfigError: There is no such model.
    """
    folder = spec.folder
    if folder is not None:
        _check_weights(folder)
        return sha256_json({str(path.relative_to(folder)): sha256_file(path) for path in _content_files(folder)})
    return sha256_json({"hub_id": spec.name, "commit": _hub_commit(spec)})


def download_model(spec: ModelSpec) -> Path:
    """Returns the folder of a model: its own, or one fetched from the Hub without any file that could hold code.

    Raises:
        ConfigError: It could not be fetched, or holds what `model_fingerprint` refuses.
    """
    from huggingface_hub import snapshot_download

    folder = spec.folder
    if folder is None:
        wanted = [f"*{suffix}" for suffix in sorted(_CONTENT_SUFFIXES - {".py"})]
        with _loading(spec, "model"):
            folder = Path(snapshot_download(spec.name, revision=spec.revision, allow_patterns=wanted))
    _check_weights(folder)
    return folder


def _source(spec: ModelSpec) -> str:
    return str(spec.folder or spec.name)


def _hub_options(spec: ModelSpec) -> dict[str, Any]:
    if spec.trust_remote_code:
        warnings.warn(
            f"trust_remote_code is on: Python code from {spec.name} runs on this machine with your permissions",
            stacklevel=3,
        )
    return {"revision": spec.revision or "main", "trust_remote_code": spec.trust_remote_code}


@contextlib.contextmanager
def _loading(spec: ModelSpec, what: str) -> Iterator[None]:
    """Turns the ways in which loading fails into one error that says what to do."""
    try:
        yield
    except SotuneError:
        raise
    except Exception as error:  # the libraries raise all kinds, bare exceptions too, of files that hold something else
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's, of the device
            raise
        remedy = (
            "check the folder's files"
            if spec.folder is not None
            else "check the id and revision, and that the Hub can be reached, or name a local folder"
        )
        raise ConfigError(f"the {what} of {spec.name} could not be loaded ({first_line(error)}); {remedy}") from None


def _check_weights(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names and "adapter_config.json" in names:
        raise ConfigError(f"{folder} holds an adapter, not a whole model; merge it into its base model first")
    if "config.json" not in names and _SENTENCE_MODULES not in names:
        raise ConfigError(f"{folder} has no config.json; name a model folder as save_pretrained writes it")
    n_safe = 0
    for part in _model_folders(folder):
        suffixes = {path.suffix: path.name for path in sorted(part.iterdir())}
        n_safe += ".safetensors" in suffixes
        pickled = [suffixes[suffix] for suffix in sorted(_PICKLED_SUFFIXES & suffixes.keys())]
        if pickled and ".safetensors" not in suffixes:
            raise ConfigError(
                f"{part} holds pickled weights only ({pickled[0]}), and loading those can run any code; "
                f"have their owner save them as safetensors (use_safetensors=True is always on)"
            )
    if n_safe == 0:
        raise ConfigError(f"{folder} holds no weights; it needs model.safetensors, or its shards and their index")


def _model_folders(folder: Path) -> list[Path]:
    """Returns the folder and, for a sentence-transformers model, those of its modules."""
    modules = folder / _SENTENCE_MODULES
    if not modules.exists():
        return [folder]
    try:
        listed = json.loads(modules.read_text(encoding="utf-8"))
        parts = [str(module["path"]) for module in listed]
        kinds = [str(module.get("type", "sentence_transformers.Transformer")) for module in listed]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{modules} is not a list of modules; save the model again") from None
    for part, kind in zip(parts, kinds, strict=True):
        package, _, name = kind.rpartition(".")
        if package.partition(".")[0] != "sentence_transformers" or name not in _KNOWN_MODULES:
            raise ConfigError(
                f"{modules} names the module {kind[:100]!r}, which may run code of its own; known are "
                f"{', '.join(sorted(_KNOWN_MODULES))} of sentence_transformers"
            )
        if Path(part).is_absolute() or ".." in Path(part).parts:
            raise ConfigError(f"{modules} names a module outside its folder, {part[:100]!r}; save the model again")
    return [folder, *(folder / part for part in parts if part and (folder / part).is_dir())]


def _content_files(folder: Path) -> Iterator[Path]:
    """Yields, in a fixed order, the files on which a model's output depends."""
    for part in _model_folders(folder):
        yield from sorted(path for path in part.iterdir() if path.is_file() and path.suffix in _CONTENT_SUFFIXES)


def _hub_commit(spec: ModelSpec) -> str:
    """Returns the commit of a Hub id's revision; offline, the one that lies in the local cache."""
    from huggingface_hub import hf_hub_download

    with _loading(spec, "configuration"):
        config = hf_hub_download(spec.name, "config.json", revision=spec.revision)
    return Path(config).parent.name
