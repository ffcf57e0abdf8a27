"""What a run starts from: the world, the base, the questions."""

from functools import cached_property
from typing import Any

from maskdpo_ray.config import Config, ModelConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.identity import commit_of, model_identity, versions
from maskdpo_ray.questions import check_disjoint, import_questions, source_of
from maskdpo_ray.records import QUESTION_SCHEMA, WEIGHTED_SCHEMA
from maskdpo_ray.rundir import RunDir, StageStore
from maskdpo_ray.sources import Source
from maskdpo_ray.stages.policy import Policy, settings_of
from maskdpo_ray.world.place import WorldPlace, world_of


class Inputs:
    """An open run directory, and what comes into it."""

    def __init__(self, config: Config, look: bool = False, plan: bool = False) -> None:
        """The run directory of a configuration.

        Args:
            look: only at what is there, beside a driver that works.
            plan: not even that must be there; stages are named, and none can be worked on.
        """
        self.config = config
        self._look, self._plan = look or plan, plan
        self.versions = versions()
        self.dir = RunDir(config)
        self._imported: dict[str, StageStore] = {}
        self.reach_models()  # one that cannot be reached must not take the directory

    def reach_models(self) -> None:
        """Raise ``UserError`` for a model of the configuration that is not there."""
        if self.config.has_policy and (self.config.model.path or self.config.world is None):
            _ = self.base

    @cached_property
    def world(self) -> WorldPlace | None:
        """The closed world, built if need be; None where the run has none."""
        world = self.config.world
        if world is None:
            return None
        return world_of(self.dir.folder, world, self.config.seed, build=not self._look)

    @cached_property
    def base(self) -> Policy:
        """The policy before training.

        Raises:
            UserError: there is none, only answers of others.
        """
        model = self.config.model
        if not self.config.has_policy:
            raise UserError("model.path is missing: there is no policy, only evaluation.models")
        own = None if model.path else self.world
        path = f"{own.shared}/policy" if own else str(model.path)
        here = f"{own.built}/policy" if own else path
        identity = model_identity(here, model.revision)
        return Policy("base", path, identity, commit_of(identity))

    def questions(self, split: str) -> StageStore:
        """The questions of ``train`` or ``test``, imported if need be.

        Raises:
            UserError: the two share a topic or a question.
        """
        if split not in self._imported:
            # Where nothing is trained, training questions need not be there.
            both = self.config.systems and self.config.evaluates
            for name in ("train", "test") if both else (split,):
                self._imported[name] = self._import(name)
            if both and not self._plan:
                columns = ["id", "topic", "question"]
                check_disjoint(
                    self._imported["train"].rows(columns),
                    self._imported["test"].rows(columns),
                    split=self.config.data.split is not None,
                )
        return self._imported[split]

    def _import(self, split: str) -> StageStore:
        data = self.config.data
        if self.world and not (split == "train" and data.train):
            source = Source(self._world_questions(split), data.columns)
        else:
            source = source_of(data, split)
        settings = {
            "sha256": source.digest(),
            "limit": data.limit,
            "format": data.format if split == "train" else "questions",
            "columns": {ours: name for ours, name in source.columns.items() if ours != "answers"},
            "split": data.split and data.split.model_dump(),
        }
        schema = WEIGHTED_SCHEMA if split == "train" and data.weighted else QUESTION_SCHEMA
        store = self.dir.store(f"questions-{split}", settings, schema)
        if self._plan:
            return store
        if self._look:
            if not store.complete:
                raise UserError(f"{self.dir.folder}: the questions are not there yet")
            return store
        group = self.config.resources.questions_per_block
        import_questions(source, data, store, group, self.versions, split)
        if not store.finished()[0]:
            raise UserError(f"{source}: every question was rejected; see {store.folder}")
        return store

    def _world_questions(self, split: str) -> str:
        name = self.config.world.evaluate_on if split == "test" else split
        return f"{self.world.built}/{name}.jsonl"

    def model_of(self, policy: Policy) -> ModelConfig:
        """The model section, of this policy."""
        return self.config.model.model_copy(
            update={"path": policy.path, "revision": policy.revision}
        )

    @cached_property
    def model_settings(self) -> dict[str, Any]:
        """What of the model section changes answers, beside the weights."""
        return settings_of(self.config.model)
