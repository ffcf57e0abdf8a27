"""What ``maskdpo demo real`` needs before it runs: questions, facts and a model, made once."""

from pathlib import Path

from maskdpo_ray.config import Config, read_config
from maskdpo_ray.progress import say
from maskdpo_ray.world.countries.build import build_countries
from maskdpo_ray.world.smollm2 import smollm2

CONFIG = Path(__file__).with_name("real.yaml")
FOLDER = Path("runs/countries")  # as the configuration says
MODEL = FOLDER / "SmolLM2-135M-Instruct"
BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # flags of CPUs that compute in it
MINUTES = {"bfloat16": 25, "float32": 45}  # on two free cores: an estimate, docs/real.md


def real_config(overrides: list[str]) -> Config:
    """The configuration, in float32 where nothing computes in bfloat16.

    Raises:
        UserError: a setting is wrong.
    """
    config = read_config(CONFIG, overrides)
    if config.model.dtype == "float32" or _on_gpu(config) or BFLOAT16 & cpu_flags():
        return config
    say("this CPU computes in float32")
    return read_config(CONFIG, [*overrides, "model.dtype=float32"])


def prepare(config: Config) -> None:
    """Write what the configuration names of ``FOLDER``, where it is not there.

    Raises:
        UserError: a package with the facts or the model is not installed.
    """
    build_countries(FOLDER, say)
    own = Path(config.model.path or "") == MODEL
    if own and not (MODEL / "config.json").is_file():
        say("converting SmolLM2-135M-Instruct, once")
        MODEL.unlink(missing_ok=True)
        MODEL.symlink_to(smollm2().resolve())
    if own and not _on_gpu(config):
        say(
            f"estimated at {MINUTES[config.model.dtype]} minutes on two free cores; stop it "
            "whenever you like, the same command goes on"
        )


def _on_gpu(config: Config) -> bool:
    return bool(config.resources.sampler.gpus or config.resources.training.gpus)


def cpu_flags() -> set[str]:
    """What this machine's CPU says that it can do; nothing where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}
