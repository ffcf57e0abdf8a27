"""Where the questions come from: files and data sets, the names of their columns, the split."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from maskdpo_ray.config.section import Content, Section

FILE_ENDINGS = (".jsonl", ".jsonl.gz", ".ndjson", ".json", ".json.gz", ".parquet")


class ColumnsConfig(Section):
    """Under which names the fields of a question stand in the data: `{question: prompt}`."""

    question: str = "question"
    id: str = "id"
    topic: str = "topic"
    document: str = "document"
    language: str = "language"
    candidates: str = "candidates"
    answers: str = "answers"
    """Reference answers, of `evaluation.short_form`: a text, or a list of texts."""

    @model_validator(mode="before")
    @classmethod
    def _our_name_first(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for theirs, ours in values.items():
                if theirs not in cls.model_fields and ours in cls.model_fields:
                    raise ValueError(f"our name comes first: {{{ours}: {theirs}}}")
        return values

    def renamed(self) -> dict[str, str]:
        """Our name and the data's, where the two differ."""
        return {ours: theirs for ours, theirs in self.model_dump().items() if ours != theirs}


class SourceConfig(Section):
    """A file, a folder of Parquet files, or a data set; `name`, `split` and `revision` are
    arguments of `datasets.load_dataset`."""

    path: Content[str] = Field(min_length=1)
    """Path or URL of a `.jsonl`, `.json` or `.parquet` file or of a folder of Parquet files; or a
    data set: its id on the hub, or a local folder."""
    name: Content[str | None] = None
    """Configuration of the data set."""
    split: Content[str | None] = None
    """Split of the data set: `train` for `data.train` and `test` for `data.test` if left out."""
    revision: Content[str | None] = None
    """Branch, tag or commit of a data set on the hub."""
    columns: ColumnsConfig | None = None
    """Column names of this source, in place of `data.columns`."""

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "SourceConfig":
        given = self.changed("name", "split", "revision")
        if given and self.path.endswith(FILE_ENDINGS):
            raise ValueError(f"{given[0]} is of a data set, and {self.path} is a file: remove it")
        return self

    def __str__(self) -> str:
        """For messages: the path, and what of it."""
        of = [f"{key} {value}" for key in ("name", "split") if (value := getattr(self, key))]
        return f"{self.path} ({', '.join(of)})" if of else self.path


class SplitConfig(Section):
    """Test questions taken out of `data.train` by topic."""

    test: float = Field(gt=0, lt=1)
    """Share of the topics to evaluate on. A larger share keeps those of a smaller one."""
    seed: int = 0
    """Another seed takes other topics. The run's seed changes nothing here."""


class DataConfig(Section):
    """The questions: docs/data.md."""

    train: SourceConfig | None = None
    """Questions to sample preference pairs from: a path, a URL, a data set, or a mapping."""
    test: SourceConfig | None = None
    """Held-out questions to evaluate on. No topic and no question may stand in both."""
    split: SplitConfig | None = None
    """In place of `test`: the share of topics of `train` to hold out, e.g. `{test: 0.1}`."""
    columns: ColumnsConfig = ColumnsConfig()
    """Column names of `train` and `test`."""
    format: Literal["questions", "pairs", "weighted_pairs"] = "questions"
    """Of `train`: questions (docs/data.md), preference pairs in the public Mask-DPO format, or
    pairs that bring token weights along and are taken as they are."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first questions of each source; a split is made of these."""

    @field_validator("train", "test", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"path": value}
        if not isinstance(value, dict | SourceConfig | None):
            raise ValueError("a path, a URL or the id of a data set, or a mapping with `path`")
        return value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "DataConfig":
        if self.split and self.test:
            raise ValueError("split takes the test questions out of train: remove it, or test")
        if self.brings_pairs and self.split:
            raise ValueError(f"format={self.format} brings no test questions: remove split")
        if self.brings_pairs and self.train and self.train.columns:
            raise ValueError(f"format={self.format} has fixed names: remove train.columns")
        if self.brings_pairs and not self.test and self.changed("columns"):
            raise ValueError(f"format={self.format} has fixed names: remove columns")
        return self

    @property
    def brings_pairs(self) -> bool:
        """Whether ``train`` holds pairs, of fixed keys."""
        return self.format != "questions"

    @property
    def weighted(self) -> bool:
        """Whether these pairs bring their weights along: nothing is sampled or annotated."""
        return self.format == "weighted_pairs"

    @property
    def tested(self) -> bool:
        """Whether there are test questions."""
        return self.test is not None or self.split is not None

    def source(self, split: str) -> SourceConfig | None:
        """Where the questions of ``train`` or ``test`` are read."""
        return self.train if self.split else getattr(self, split)
