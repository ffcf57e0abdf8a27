"""The settings of a run: one strict tree, a module for each of its parts.

Every default stands here and nowhere else. An unknown key is an error that names the nearest
valid one, and a combination that the system would ignore is refused while the file is read,
before anything heavy is imported.
"""

from maskdpo_ray.config.annotation import AnnotationConfig, AnyAnnotation
from maskdpo_ray.config.chat_model import ChatModelConfig
from maskdpo_ray.config.data import ColumnsConfig, DataConfig, SourceConfig, SplitConfig
from maskdpo_ray.config.endpoint import AnnotatorEndpointConfig, Constrain, EndpointConfig
from maskdpo_ray.config.evaluated import EvaluatedConfig
from maskdpo_ray.config.evaluation import EvaluationConfig
from maskdpo_ray.config.factscore import FactScoreConfig
from maskdpo_ray.config.file import build_config, differing_keys, read_config
from maskdpo_ray.config.inputs import ModelConfig, WorldConfig
from maskdpo_ray.config.lm_eval import LmEvalConfig
from maskdpo_ray.config.override import apply_override
from maskdpo_ray.config.preference import PreferenceConfig
from maskdpo_ray.config.resources import PoolConfig, ResourcesConfig, WorkersConfig
from maskdpo_ray.config.run import Config
from maskdpo_ray.config.sampling import SamplingConfig
from maskdpo_ray.config.short_form import ShortFormConfig
from maskdpo_ray.config.topics import TopicsConfig
from maskdpo_ray.config.training import LoraConfig, TrackingConfig, TrainingConfig
from maskdpo_ray.config.win_rate import WinRateConfig
from maskdpo_ray.config.yaml_text import dump_yaml, parse_yaml

__all__ = [
    "AnnotationConfig",
    "AnnotatorEndpointConfig",
    "AnyAnnotation",
    "ChatModelConfig",
    "ColumnsConfig",
    "Config",
    "Constrain",
    "DataConfig",
    "EndpointConfig",
    "EvaluatedConfig",
    "EvaluationConfig",
    "FactScoreConfig",
    "LmEvalConfig",
    "LoraConfig",
    "ModelConfig",
    "PoolConfig",
    "PreferenceConfig",
    "ResourcesConfig",
    "SamplingConfig",
    "ShortFormConfig",
    "SourceConfig",
    "SplitConfig",
    "TopicsConfig",
    "TrackingConfig",
    "TrainingConfig",
    "WinRateConfig",
    "WorkersConfig",
    "WorldConfig",
    "apply_override",
    "build_config",
    "differing_keys",
    "dump_yaml",
    "parse_yaml",
    "read_config",
]
