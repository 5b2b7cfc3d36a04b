"""LoRA adapters on a model (Hu et al. 2021, arXiv:2106.09685) and on disk.

Weights are float32 and travel in PEFT's layout: `adapter_model.safetensors` and `adapter_config.json`, for PEFT and vLLM to
read, and read from them with suspicion.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import BaseModelError, did_you_mean
from burnish.model.lora_linear import AdaptedLinear, BiasedModule, LoraLinear
from burnish.model.stream import streamed_devices
from burnish.store.files import write_bytes, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
RANK_LIMIT = 1024
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
READING_BYTES = 4 << 20
"""Memory that there must be beside the numbers themselves before safetensors reads them: where it runs out in there, its Rust
ends the process (0.8), while torch raises an error that can be answered."""
PEFT_PREFIX = "base_model.model."
LENGTHS = "lora_magnitude_vector"
UNSUPPORTED = ("fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication",
               "megatron_config", "trainable_token_indices", "lora_bias", "use_qalora", "layers_to_transform", "exclude_modules",
               "target_parameters", "arrow_config", "alora_invocation_tokens")  # fmt: skip


def resolve_targets(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """Return the full names of the linear layers that `targets` mean, in the model's order.

    `all-linear` means each but the output head; another name means every layer whose name ends with it, as in PEFT.
    Raises BaseModelError that lists the model's linear layers for a target that names none.
    """
    return choose_targets(list(adaptable_layers(model)), targets)


def choose_targets(names: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return those of the layer names that `targets` mean, in their order. See `resolve_targets`."""
    if not names:
        raise BaseModelError(
            "the base keeps its weights in no linear layer that an adapter fits. Use another base, or method: full."
        )
    chosen: set[str] = set()
    for target in targets:
        found = [name for name in names if target == ALL_LINEAR or name == target or name.endswith("." + target)]
        if not found:
            leaves = sorted({name.rpartition(".")[2] for name in names})
            raise BaseModelError(
                f'the base has no linear layer called "{target}" (method.targets). '
                f"It has: {', '.join(leaves)}, or {ALL_LINEAR}.{did_you_mean(target, leaves)}"
            )
        chosen.update(found)
    return [name for name in names if name in chosen]


def attach_lora(model: PreTrainedModel, method: MethodPlan, *, seed: int) -> None:
    """Put a fresh adapter on each target of the model, in place. A is drawn from (seed, layer name), B is zero.

    With method.bias biases train too: of the targets, or of every module but the output head.
    Raises BaseModelError for unknown targets, or when the model has an adapter already.
    """
    if any(isinstance(module, (LoraLinear, BiasedModule)) for module in model.modules()):
        raise BaseModelError("the model has an adapter already; load the base again to put another one on it.")
    elsewhere = streamed_devices(model)
    for name in resolve_targets(model, method.targets):
        generator = torch.Generator().manual_seed(_seed_of(seed, name))
        base = model.get_submodule(name)
        layer = LoraLinear(
            base, rank=method.rank, scale=method.scale, dropout=method.dropout, generator=generator,
            bias=method.bias is not None, dora=method.dora is not None, device=elsewhere.get(base, base.weight.device),
        )  # fmt: skip
        model.set_submodule(name, layer.train(model.training))
    for name in biases(model) if method.bias == "all" else ():
        module = model.get_submodule(name)
        if not isinstance(module, LoraLinear):
            model.set_submodule(name, BiasedModule(module).train(model.training))


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Return the adapted layers by the name that the plain linear layer had."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def biases(model: PreTrainedModel) -> dict[str, int]:
    """Return how many numbers the bias of each module has that adds one, by name; the output head is left as it is."""
    found: dict[str, int] = {}
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is head or name.endswith(".base"):
            continue
        owner = module.base if isinstance(module, (AdaptedLinear, BiasedModule)) else module
        bias = dict(owner.named_parameters(recurse=False)).get("bias")
        if bias is not None:
            found[name] = bias.numel()
    return found


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is trained: `<layer>.lora_A` (rank, in) and `<layer>.lora_B` (out, rank), float32.

    Where they train also `<layer>.bias` (out,), of layers without adapter too, and the `<layer>.lora_magnitude_vector` of DoRA.
    """
    return {
        f"{name}.{side}": parameter
        for name, layer in _changed(model).items()
        for side, parameter in layer.named_parameters(recurse=False)
    }


def _changed(model: nn.Module) -> dict[str, LoraLinear | BiasedModule]:
    """Return the modules that an adapter has something of."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (LoraLinear, BiasedModule))}


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Within the block the model answers as its base."""
    layers = [layer for layer in _changed(model).values() if layer.active]
    for layer in layers:
        layer.active = False
    try:
        yield
    finally:
        for layer in layers:
            layer.active = True


def adapter_copy(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's weights as they are now, for `adapter_as`."""
    return {name: parameter.detach().clone() for name, parameter in lora_parameters(model).items()}


@contextmanager
def adapter_as(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model answers with these weights in its adapter, without dropout. Gradients have no place there."""
    parameters = lora_parameters(model)
    own = {name: parameter.data for name, parameter in parameters.items()}
    training = [layer for layer in lora_layers(model).values() if layer.training]
    for name, parameter in parameters.items():
        parameter.data = weights[name]
    for layer in training:
        layer.training = False
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
        for layer in training:
            layer.training = True


def merge_lora(model: PreTrainedModel) -> PreTrainedModel:
    """Replace each adapted layer by a plain linear layer with W + scale B A, in place, and return the model.

    Trained biases and the lengths of DoRA go in too.
    """
    for name, layer in _changed(model).items():
        bias = layer.base.bias
        if bias is not None and layer.bias is not None:
            bias = nn.Parameter(layer.bias.detach().to(bias.dtype), requires_grad=False)
        if isinstance(layer, BiasedModule):
            plain = layer.base
        else:
            with torch.device("meta"):
                plain = nn.Linear(layer.in_features, layer.out_features, bias=bias is not None)
            dtype = bias.dtype if bias is not None else model.dtype
            plain.weight = nn.Parameter(layer.merged_weight().detach().to(dtype), requires_grad=False)
        plain.bias = bias
        model.set_submodule(name, plain.eval())
    return model


def save_adapter(model: PreTrainedModel, folder: Path, method: MethodPlan, base_name: str) -> None:
    """Write the model's adapter so that `PeftModel.from_pretrained(base, folder)` gives the same logits."""
    adapted = lora_layers(model)
    tensors = {_key(name, adapted): value.detach().cpu().contiguous() for name, value in lora_parameters(model).items()}
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(folder / CONFIG, peft_config(model, method, base_name))


def _key(name: str, adapted: Collection[str]) -> str:
    """Return the name that PEFT has in its files for a name of `lora_parameters`."""
    layer, _, leaf = name.rpartition(".")
    if leaf == "bias":
        return f"{PEFT_PREFIX}{layer}.base_layer.bias" if layer in adapted else f"{PEFT_PREFIX}{name}"
    return f"{PEFT_PREFIX}{name}" if leaf == LENGTHS else f"{PEFT_PREFIX}{name}.weight"


def peft_config(model: PreTrainedModel, method: MethodPlan, base_name: str) -> dict[str, Any]:
    """Return the fields of PEFT's LoraConfig that say what this adapter is."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "target_modules": _short_names(model),
        "bias": method.bias or "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": bool(method.rslora),
        "use_dora": bool(method.dora),
        "modules_to_save": None,
    }


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Put the adapter of `folder` on the model, in place. Raises BaseModelError as `read_adapter` does."""
    method, weights = read_adapter(folder, adaptable_layers(model), biases=biases(model))
    attach_lora(model, method, seed=0)
    put_adapter(model, weights)


def put_adapter(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Put these weights, by the names of `lora_parameters`, into the adapter that the model has."""
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            parameter.copy_(weights[name])


def read_adapter(
    folder: Path,
    layers: Mapping[str, tuple[int, int]],
    *,
    biases: Mapping[str, int] | None = None,
    rank_limit: int = RANK_LIMIT,
) -> tuple[MethodPlan, dict[str, Tensor]]:
    """Return the method and what is trained (named as by `lora_parameters`, float32) of an adapter in PEFT's layout.

    layers: inputs and outputs of the base's linear layers by name, as `adaptable_layers` gives them. biases: those of the base, as
    `biases` gives them; None for a reader that computes low-rank products alone.
    Only adapter_config.json and adapter_model.safetensors are read. Raises BaseModelError when one is missing or broken, the
    adapter is of a kind burnish does not compute, its rank is over the limit, or shapes, names or values do not fit.
    """
    method = method_of(_read_config(folder / CONFIG), folder, rank_limit=rank_limit)
    if biases is None and (method.bias is not None or method.dora is not None):
        what = "lengths of rows (DoRA)" if method.dora else f"biases (bias: {method.bias})"
        raise BaseModelError(
            f"{folder / CONFIG}: the adapter trained {what}. Many adapters on one base are low-rank products alone; "
            "evaluate this one, load it with PEFT, or train again without."
        )
    expected = _expected_shapes(layers, method, biases or {})
    _check_size(folder / WEIGHTS, expected)
    try:
        # load_file (safetensors 0.8) keeps two small objects of each tensor for ever; a server reads adapters for months
        data = (folder / WEIGHTS).read_bytes()
        torch.empty(len(data) + READING_BYTES, dtype=torch.uint8)  # let go of at once; see READING_BYTES
        tensors = load(data)
        del data
    except (OSError, SafetensorError) as error:
        raise BaseModelError(
            f"cannot read {folder / WEIGHTS}: {error}. An adapter folder needs {WEIGHTS} and {CONFIG}."
        ) from error
    _check_tensors(tensors, expected, folder)
    return method, {
        name.removeprefix(PEFT_PREFIX).removesuffix(".weight").replace(".base_layer.bias", ".bias"): value.to(
            torch.float32
        )
        for name, value in tensors.items()
    }


def adaptable_layers(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of every linear layer that may have an adapter, by name, in the model's order."""
    head = model.get_output_embeddings()
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, AdaptedLinear)) and module is not head and not name.endswith(".base")
    }


def _expected_shapes(
    layers: Mapping[str, tuple[int, int]], method: MethodPlan, biases: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    adapted = choose_targets(list(layers), method.targets)
    for name in adapted:
        inputs, outputs = layers[name]
        shapes[f"{name}.lora_A"] = (method.rank, inputs)
        shapes[f"{name}.lora_B"] = (outputs, method.rank)
        if method.dora:
            shapes[f"{name}.{LENGTHS}"] = (outputs,)
    if method.bias is not None:
        trained = biases if method.bias == "all" else [name for name in adapted if name in biases]
        shapes |= {f"{name}.bias": (biases[name],) for name in trained}
    return {_key(name, adapted): shape for name, shape in shapes.items()}


def _check_size(path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a file that is larger than its matrices in float64 and a header could be, before it is read."""
    allowed = 8 * sum(math.prod(shape) for shape in expected.values()) + 512 * len(expected) + 65536
    found = path.stat().st_size if path.is_file() else 0
    if found > allowed:
        raise BaseModelError(f"{path} has {found} bytes; an adapter of this base and rank has at most {allowed}.")


def method_of(config: dict[str, Any], folder: Path, *, rank_limit: int = RANK_LIMIT) -> MethodPlan:
    """Return the method that an adapter_config.json describes. Raises BaseModelError when burnish cannot compute it."""
    used = [key for key in UNSUPPORTED if config.get(key)]
    bias = config.get("bias", "none")
    if config.get("peft_type") != "LORA" or bias not in ("none", "all", "lora_only") or used:
        raise BaseModelError(
            f"{folder / CONFIG} is not plain LoRA (peft_type {config.get('peft_type')}, uses {used or bias})."
        )
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    targets = config.get("target_modules")
    targets = [targets] if isinstance(targets, str) else targets
    if not isinstance(rank, int) or not 1 <= rank <= rank_limit:
        raise BaseModelError(f"{folder / CONFIG} has r = {rank!r}; a whole number from 1 to {rank_limit} is allowed.")
    if not isinstance(alpha, (int, float)) or not isinstance(targets, list) or not targets:
        raise BaseModelError(
            f"{folder / CONFIG} has lora_alpha = {alpha!r}, target_modules = {targets!r}; a number and names are needed."
        )
    return MethodPlan(
        kind="lora", rank=rank, alpha=float(alpha), dropout=float(dropout), targets=tuple(str(target) for target in targets),
        quantisation="none", double_quantisation=False, rslora=True if config.get("use_rslora") else None,
        bias=None if bias == "none" else bias, dora=True if config.get("use_dora") else None,
    )  # fmt: skip


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"cannot read {path}: {error}. An adapter folder needs {WEIGHTS} and {CONFIG}.") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{path} holds a {type(config).__name__}; a JSON object is needed.")
    return config


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], folder: Path) -> None:
    path = folder / WEIGHTS
    if tensors.keys() != expected.keys():
        odd = ", ".join(sorted(tensors.keys() ^ expected.keys())[:4])
        raise BaseModelError(f"{path} does not fit this base: {odd} in only one of them. Is it another base's adapter?")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise BaseModelError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, this base needs {shape}.")
        if not tensors[name].is_floating_point():
            raise BaseModelError(f"{path}: {name} holds {tensors[name].dtype}; floating point numbers are needed.")
        if not torch.isfinite(tensors[name]).all():
            raise BaseModelError(f"{path}: {name} holds values that are not finite. The adapter is damaged.")


def _short_names(model: PreTrainedModel) -> list[str]:
    """Return leaf names (q_proj) when they mean exactly the adapted layers, else their full names."""
    adapted = set(lora_layers(model))
    leaves = {name.rpartition(".")[2] for name in adapted}
    meant = {
        name for name, module in model.named_modules()
        if name.rpartition(".")[2] in leaves and (name in adapted or isinstance(module, torch.nn.Linear))
    }  # fmt: skip
    return sorted(leaves if meant == adapted else adapted)
