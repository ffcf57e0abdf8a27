"""Every setting of the tree is changed, and exactly what it says of itself is redone: nothing for
how and where, everything that depends on it for what decides. No engine, no Ray: only names."""

import ast
import functools
import itertools
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from maskdpo_ray.annotation.registry import annotator_named, with_setting
from maskdpo_ray.annotation.wording import our_file
from maskdpo_ray.config import Config, build_config
from maskdpo_ray.config.engine import HOW, SECRET, WHERE
from maskdpo_ray.config.section import Kind, Section, kinds_of, options
from maskdpo_ray.errors import UserError
from maskdpo_ray.identity import file_digest
from maskdpo_ray.knowledge.database import build_knowledge
from maskdpo_ray.stages import Stages

QUESTION = (
    '{{"id": "{0}", "question": "Who is {0}?", "topic": "{0}", "document": "{0}.", '
    '"answers": ["{0}"]}}\n'
)
SERVER = {"base_url": "http://host/v1", "model": "served"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("policy", "judge", "anah", "other", "writer", "verifier"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        (folder / name / "model.safetensors").write_text(name)
    (folder / "encoder").mkdir()
    names = {"id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"}}
    (folder / "encoder" / "config.json").write_text(json.dumps({"model_type": "bert", **names}))
    (folder / "encoder" / "model.safetensors").write_text("encoder")
    for name in ("train", "test", "more"):
        (folder / f"{name}.jsonl").write_text(QUESTION.format(name))
    for name in ("template.jinja", "wording.yaml", "answers.jsonl", "key"):
        (folder / name).write_text("en: {}\n")
    (folder / "pages.jsonl").write_text('{"title": "Ada", "text": "A baker."}\n')
    build_knowledge(str(folder / "pages.db"), [str(folder / "pages.jsonl")])
    (folder / "other.jsonl").write_text('{"title": "Bo", "text": "A cook."}\n')
    build_knowledge(str(folder / "other-pages.db"), [str(folder / "other.jsonl")])
    return folder


def bases(files) -> list[dict[str, Any]]:
    """Configurations in which together every setting has a place."""
    run = {"run_dir": str(files / "run"), "model": {"path": str(files / "policy")}}
    train, test = str(files / "train.jsonl"), str(files / "test.jsonl")
    judge = {"annotator": "judge", "model": str(files / "judge"), "engine": {"max_model_len": 64}}
    served = {"annotator": "judge", "endpoint": {**SERVER, "constrain": "vllm"}}
    writer = {"model": str(files / "writer"), "engine": {}}
    full = {
        **run,
        "data": {"train": {"path": train, "columns": {}}, "test": test},
        "sampling": {"engine": {"max_model_len": 64}},
        "annotation": judge,
        "training": {"holdout": 0.1, "lora": {}, "sample_every": 5},
        "preference": {"length_window": {"ratio": 2.0}},
        "systems": {"one": {}},
        "evaluation": {
            "annotation": {**judge, "max_tokens": 9},
            "judges": {"second": {"annotator": "anah", "model": str(files / "anah")}},
            "models": {
                "other": {"path": str(files / "other"), "engine": {}},
                "served": {"endpoint": SERVER},
                "given": {"responses": str(files / "answers.jsonl")},
            },
            "factscore": {"writer": writer, "knowledge": str(files / "pages.db")},
        },
        "resources": {"training": {"workers": [1, 2], "gpus": 1}, "reference": {"gpus": 1}},
    }
    dense = {"retrieval": "dense", "embedding": str(files / "other"), "writer": writer}
    servers = {
        **run,
        "data": {"train": train, "split": {"test": 0.5}},
        "sampling": {"endpoint": SERVER},
        "annotation": served,
        "tracking": {"report_to": ["wandb"]},
        "systems": {"one": {}},
        "evaluation": {"judges": {}, "factscore": {**dense, "knowledge": str(files / "pages.db")}},
    }
    again = {**run, "data": {"train": train}, "annotation": judge, "systems": {"one": {}}}
    rounds = {**again, "rounds": 2, "training": {"ratios": "mean"}}
    by_net = {"annotation": {**judge, "confidence": True}, "preference": {"select": "net"}}
    alone = {"training": {"lora": {}, "loss": "fkto"}, "preference": {"select": "f1@k"}}
    by_net["training"] = {"anchor_weight": 0.5, "rejected_floor": 0.5}
    encoder = {"annotation": {"annotator": "encoder", "model": str(files / "encoder")}}
    asked = {"win_rate": writer, "short_form": {"judge": writer}, "judges": {}}
    further = {**again, "data": {"train": train, "test": test}, "evaluation": asked}
    pages = {**judge, "knowledge": str(files / "pages.db")}
    found = {**pages, "retrieval": "dense", "embedding": str(files / "other")}
    both = [encoder["annotation"], served]
    return [
        full,
        servers,
        {**again, "annotation": pages},
        {**again, "annotation": found},
        rounds,
        further,
        {**again, **encoder},
        {**again, "annotation": {"cascade": both, "bands": [0.9]}},
        {**again, "annotation": {"vote": both}},
        {**again, **by_net},
        {**again, **alone},
        {**again, "training": {"loss": "fkto"}},
    ]


# Where the next value is not simply another of its type.
VALUES: dict[str, Any] = {
    "base_url": "http://elsewhere/v1",
    "bands": [{"ok": 0.9}],
    "ballots": [1, 0.5],
    "api_key_env": "MY_KEY",
    "best_of_n": [1, 2],
    "betas": [0.8, 0.9],
    "target_modules": ["q_proj"],
    "f1_k": 3,
    "length_ratio": 2.0,
    "parameters": {"temperature": None},
    "window": 256,
    "chat_template_kwargs": {"enable_thinking": False},
    "labels": {"entailment": "ok", "neutral": "ok", "contradiction": "contradictory"},
    "deepspeed": {"wall_clock_breakdown": True},
    "decodings": ["greedy", "sampled"],
    "report_to": ["mlflow"],
    "actors": [1, 3],
    "workers": [1, 3],
    "resources": {"group": 1.0},
    "engine": {"max_model_len": 32},
    "systems": {"one": {"epochs": 2}},
}
# What these configurations cannot change alone.
ELSEWHERE = {
    ("WorldConfig", "seed"),  # tests/world: another world has to be built
    ("WorldConfig", "small"),
    ("WorldConfig", "evaluate_on"),
    ("ModelConfig", "revision"),  # of a model on the hub
    ("ChatModelConfig", "revision"),
    ("EncoderSettings", "revision"),
    ("FactScoreConfig", "embedding_revision"),
    ("AnnotationConfig", "embedding_revision"),
    ("AnnotationConfig", "retrieval"),  # with or without an encoder
    ("AnnotationConfig", "overrides"),  # of questions that are there: test_public_pairs.py
    ("SourceConfig", "name"),  # of a data set on the hub
    ("SourceConfig", "split"),
    ("SourceConfig", "revision"),
    ("ColumnsConfig", "answers"),  # by the reference answers themselves
    ("DataConfig", "format"),  # another kind of run
    ("AnnotationConfig", "annotator"),
    ("ClosedWorldSettings", "error_rate"),  # in a world
    ("FactScoreConfig", "retrieval"),  # with or without an encoder
    ("PreferenceConfig", "questions"),  # of a run whose questions are there: test_data_stages.py
    ("WinRateConfig", "templates"),  # read at once, so a wording of the right form
    ("ShortFormConfig", "templates"),
    ("LoraConfig", "dropout"),  # may only be zero
}
OF_EXTRAS = ("LmEvalConfig",)  # packages that name a stage's results must be installed
# Of these kinds nothing is ever redone.
IDLE = (Kind.HOW, Kind.WHERE, Kind.SECRET, Kind.REPORT)


def another(field: Any, value: Any) -> Any:
    """Another value of the same type."""
    types = [each for each, _ in options(field.annotation)] or [field.annotation]
    words = [word for of in types if get_origin(of) is Literal for word in get_args(of)]
    if others := [word for word in words if word != value]:
        return others[0]
    if isinstance(value, bool) or bool in types:
        return value is not True
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value / 2 or 0.25
    if value is None and {int, float} & set(types):
        return 7 if int in types else 0.5
    return f"{value or 'new'}x"


def settings(section: Section, prefix: str = "", idle: bool = False):
    """(key, section, field, whether nothing may be redone) of every setting in an instance."""
    for name, kind in kinds_of(type(section)).items():
        value = getattr(section, name)
        key, still = f"{prefix}{name}", idle or kind in IDLE
        if isinstance(value, Section):
            yield from settings(value, f"{key}.", still)
        elif isinstance(value, dict) and value and isinstance(next(iter(value.values())), Section):
            for entry, each in value.items():
                yield from settings(each, f"{key}.{entry}.", still)
        elif not any(sections_in(type(section).model_fields[name].annotation)):
            yield key, section, name, still


def keys_of(config: Config) -> dict[str, str]:
    return {store.name: store.key for store in Stages.planned(config)}


class Run:
    """A configuration, and what changes of it redo."""

    def __init__(self, tree: dict) -> None:
        self.tree, self.config = tree, build_config(tree)
        self.keys = keys_of(self.config)

    def changed_by(self, override: dict[str, Any]) -> tuple[set[str], bool]:
        """The stages that a change redoes, and whether it makes another run."""
        after = build_config(merged(self.tree, override))
        new = keys_of(after)
        redone = {name for name in self.keys | new if self.keys.get(name) != new.get(name)}
        return redone, self.config.identity() != after.identity()


def merged(tree: Any, over: Any) -> Any:
    if not (isinstance(tree, dict) and isinstance(over, dict)):
        return over
    return {**tree, **{key: merged(tree.get(key), value) for key, value in over.items()}}


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


# By the beginning of a key: a stage that must be redone, and those that must stay.
FIRST = {
    "seed": ({"sample"}, {"questions-train", "questions-test"}),
    "model.": ({"sample"}, {"questions-train"}),
    "sampling.": ({"sample"}, {"questions-train", "answer-other"}),
    "annotation.": ({"annotate"}, {"sample", "answer-base"}),
    "preference.": ({"pair"}, {"annotate", "answer-base", "evaluate-base"}),
    "training.": ({"train-one"}, {"pair", "evaluate-base"}),
    "evaluation.annotation": ({"evaluate-base"}, {"annotate", "answer-base", "train-one"}),
    "evaluation.judges": ({"evaluate-base-by-second"}, {"evaluate-base", "answer-base"}),
    "evaluation.models.other": ({"answer-other"}, {"answer-base", "answer-served"}),
    "evaluation.models.served": ({"answer-served"}, {"answer-base", "answer-other"}),
    "evaluation.factscore": ({"factscore-base"}, {"evaluate-base", "answer-base"}),
    "evaluation.win_rate": ({"win-rate-one"}, {"evaluate-base", "answer-base"}),
    "evaluation.short_form": ({"short-form-base"}, {"evaluate-base", "answer-base"}),
    "evaluation.": ({"answer-base"}, {"sample", "train-one"}),
}


def test_each_setting_redoes_what_it_says(files):
    done: set[tuple[str, tuple[str, str]]] = set()
    wrong = []
    for number, tree in enumerate(bases(files)):
        run = Run(tree)
        for key, section, name, idle in settings(run.config):
            place = defined(type(section), name)
            if place in ELSEWHERE or (key, place) in done:
                continue
            content = kinds_of(type(section))[name] is Kind.CONTENT
            try:
                problem = (
                    content_problem(run, key, getattr(section, name), files)
                    if content
                    else problem_with(run, key, section, name, idle)
                )
            except UserError:  # this tree does not let it be changed; another one must
                continue
            done.add((key, place))
            wrong += [f"configuration {number}, {key}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)
    unchanged = every_setting() - {place for _, place in done}
    unchanged = {each for each in unchanged if each[0] not in OF_EXTRAS}
    missing = f"give these a place in `bases`, or a value in VALUES: {unchanged - ELSEWHERE}"
    assert unchanged == ELSEWHERE, missing


def problem_with(run, key, section, name, idle) -> str | None:
    """What is wrong with what a change redoes."""
    field = type(section).model_fields[name]
    new = VALUES[name] if name in VALUES else another(field, getattr(section, name))
    redone, other = run.changed_by(nested(key, new))
    if idle or not (redone and other):
        happened = bool(redone or other)
        said = f"{new!r} redoes {sorted(redone)}, another run: {other}"
        return said if happened is idle or not idle else None
    first, stays = next((each for start, each in FIRST.items() if key.startswith(start)), ((), ()))
    lacks, more = (set(first) & run.keys.keys()) - redone, set(stays) & redone
    return f"{new!r} does not redo {lacks}, redoes {more}" if lacks or more else None


def content_problem(run, key, value, files) -> str | None:
    """A copy elsewhere redoes nothing; there is no need to ask for --rerun then."""
    if value is None:
        value = str(files / "template.jinja")
        run = Run(merged(run.tree, nested(key, value)))
    source, copy = Path(value), files / f"copy-of-{Path(value).name}"
    copying = shutil.copytree if source.is_dir() else shutil.copy
    if not copy.exists():
        copying(source, copy)
    redone, other = run.changed_by(nested(key, str(copy)))
    if redone or not other:
        return f"a copy elsewhere redoes {sorted(redone)}, another name: {other}"
    changed = files / f"other-{Path(value).name}"
    if not changed.exists():
        copying(source, changed)
        inside = changed / "model.safetensors" if changed.is_dir() else changed
        inside.write_bytes(inside.read_bytes() + b" ")
    return None if run.changed_by(nested(key, str(changed)))[0] else "another content is nothing"


def defined(section: type[Section], name: str) -> tuple[str, str]:
    """A setting where it is defined."""
    return next(cls.__name__ for cls in section.__mro__ if name in cls.__annotations__), name


def every_setting() -> set[tuple[str, str]]:
    """All that the package defines, annotators included."""
    found, left = set(), [Config, *(annotator_named(n).Settings for n in with_setting("annotator"))]
    done = set()
    while left:
        section = left.pop()
        if section in done:
            continue
        done.add(section)
        for name, field in section.model_fields.items():
            inner = list(sections_in(field.annotation))
            left += inner
            if not inner:
                found.add(defined(section, name))
    return found


def sections_in(of: Any):
    for each in [of, *itertools.chain(*(get_args(part) for part, _ in options(of) or [(of, ())]))]:
        for part, _ in options(each) or [(each, ())]:
            if isinstance(part, type) and issubclass(part, Section):
                yield part


TRAINED = {
    "train-one", "answer-one", "evaluate-one", "evaluate-one-by-second", "factscore-one"
}  # fmt: skip
PAIRS = {"pair", *TRAINED}
BASE = {"answer-base", "evaluate-base", "evaluate-base-by-second", "factscore-base"}
SERVED = {name.replace("base", "served") for name in BASE}
OTHER = {name.replace("base", "other") for name in BASE}
GIVEN = {name.replace("base", "given") for name in BASE}


@pytest.mark.parametrize(
    ("key", "value", "redone"),
    [
        ("sampling.engine.download_dir", "/models", set()),
        ("sampling.engine.hf_token", "hf_secret", set()),
        ("sampling.engine.max_num_seqs", 3, set()),
        ("sampling.engine.max_model_len", 32, {"sample", "annotate", *PAIRS, *BASE}),
        ("sampling.temperature", 0.5, {"sample", "annotate", *PAIRS}),
        ("annotation.templates", "wording.yaml", {"annotate", *PAIRS}),
        ("annotation.chat_template", "template.jinja", {"annotate", *PAIRS}),
        ("annotation.engine.kv_cache_dtype", "fp8", {"annotate", *PAIRS}),
        ("annotation.engine.gpu_memory_utilization", 0.5, set()),
        ("annotation.engine.an_argument_of_tomorrow", 1, {"annotate", *PAIRS}),
        ("preference.eos", "mask", PAIRS),
        ("preference.trim_chosen", True, PAIRS),
        ("training.beta", 0.2, TRAINED),
        ("training.attention", "eager", {"reference", *TRAINED}),
        ("training.preset", "released", TRAINED),
        ("training.preset", "paper", set()),
        ("training.zero_stage", 1, set()),
        ("training.deepspeed", {"wall_clock_breakdown": True}, set()),
        ("systems.one.beta", 0.3, TRAINED),
        ("systems.one.zero_stage", 1, set()),
        ("systems.one.preference.eos", "mask", {"pair", "pair-for-one", *TRAINED}),
        ("systems.one.preference", {"eos": "keep"}, set()),
        ("systems.two.preference.eos", "mask", {
            "pair-for-two", *(name.replace("one", "two") for name in TRAINED)}),
        ("systems.two", {}, {name.replace("one", "two") for name in TRAINED}),
        ("evaluation.bootstrap", 300, set()),
        ("evaluation.best_of_n", [1], set()),
        ("evaluation.factscore.gamma", 5, set()),
        ("evaluation.factscore.k", 3, {f"factscore-{of}" for of in (
            "base", "one", "other", "served", "given")}),
        ("evaluation.annotation.max_tokens", 8, {f"evaluate-{of}" for of in (
            "base", "one", "other", "served", "given")}),
        ("evaluation.judges.second.max_tokens", 8, {f"evaluate-{of}-by-second" for of in (
            "base", "one", "other", "served", "given")}),
        ("evaluation.judges.third", {"annotator": "anah", "model": "other"}, {
            f"evaluate-{of}-by-third" for of in ("base", "one", "other", "served", "given")}),
        ("evaluation.models.served.endpoint.base_url", "http://there/v1", set()),
        ("evaluation.models.served.endpoint.concurrency", 2, set()),
        ("evaluation.models.served.endpoint.model", "better", SERVED),
        ("evaluation.models.other.system_prompt", "Be brief.", OTHER),
        ("resources.local_cpus", 9, set()),
        ("resources.questions_per_block", 9, set()),
        ("tracking.report_to", [], set()),
        ("data.limit", 1, set()),
    ],
)  # fmt: skip
def test_what_is_redone_of_these(key, value, redone, files, full):
    if isinstance(value, str) and (files / value).exists():
        value = str(files / value)
    if key.endswith("third"):
        value = {**value, "model": str(files / "other")}
    if key == "data.limit":
        redone = {store.name for store in Stages.planned(full.config)} - {"reference"}
    found, _ = full.changed_by(nested(key, value))
    assert found == redone


@pytest.fixture(scope="module")
def full(files):
    return Run(bases(files)[0])


@pytest.mark.parametrize(
    ("number", "key", "value", "redone"),
    [
        (0, "batch_size", 3, False),
        (0, "threshold", 0.6, True),
        (0, "model", None, True),
        (1, "endpoint.base_url", "http://there/v1", False),
        (1, "endpoint.model", "better", True),
        (1, "templates", "wording.yaml", True),
    ],
)
def test_what_a_member_of_several_says_of_its_settings_holds_of_all(
    number, key, value, redone, files
):
    [tree] = [each for each in bases(files) if "cascade" in each["annotation"]]
    run = Run(tree)
    if key == "model":  # the same labels, other weights
        shutil.copytree(files / "encoder", files / "encoder-2")
        (files / "encoder-2" / "model.safetensors").write_text("another")
        value = str(files / "encoder-2")
    members = list(tree["annotation"]["cascade"])
    value = str(files / value) if (files / str(value)).exists() else value
    members[number] = merged(members[number], nested(key, value))
    found, _ = run.changed_by({"annotation": {"cascade": members}})
    assert found == ({"annotate", *TRAINED, "pair"} & run.keys.keys() if redone else set())


def test_our_own_wording_is_part_of_what_verdicts_depend_on(full):
    annotation = full.config.annotation
    identity = annotation.kind.identity(annotation, "annotation")
    assert identity["templates"] == file_digest(our_file("judge.yaml"))


def test_a_secret_is_saved_nowhere(files, tmp_path):
    secret = {"hf_token": "hf_secret"}
    tree = merged(bases(files)[0], {"run_dir": str(tmp_path / "run")})
    for key in ("sampling", "annotation", "evaluation.models.other", "evaluation.factscore.writer"):
        tree = merged(tree, nested(f"{key}.engine", secret))
    config = build_config(tree)
    assert config.annotation.engine["hf_token"] == "hf_secret"
    stages = Stages(config)
    for store in stages.planned(config):
        store.begin({})
    texts = [file.read_text() for file in (tmp_path / "run").rglob("*") if file.suffix != ".parquet"
             and file.is_file()]  # fmt: skip
    assert len(texts) > 10 and not any("hf_secret" in text for text in texts)


def test_every_engine_argument_that_is_told_apart_exists():
    source = Path(find_spec("vllm").origin).parent / "engine" / "arg_utils.py"
    [arguments] = [
        each for each in ast.parse(source.read_text()).body
        if isinstance(each, ast.ClassDef) and each.name == "EngineArgs"
    ]  # fmt: skip
    known = {each.target.id for each in arguments.body if isinstance(each, ast.AnnAssign)}
    known.add("enable_log_requests")  # of AsyncEngineArgs
    assert not {*HOW, *WHERE, *SECRET} - known


@pytest.fixture
def opened(files, tmp_path):
    """Opens one run directory with changes of its configuration."""
    tree = merged(bases(files)[0], {"run_dir": str(tmp_path / "run")})

    def opened(*changes: dict, rerun: bool = False) -> Stages:
        return Stages(build_config(functools.reduce(merged, changes, tree)), rerun)

    return opened


def test_another_configuration_is_refused_only_where_something_would_be_redone(
    opened, files, tmp_path
):
    hotter, judge = nested("sampling.temperature", 0.5), nested("evaluation.judges", {"new": {
        "annotator": "anah", "model": str(files / "other")}})  # fmt: skip
    stages = opened()
    stages.questions("train")
    opened(hotter)  # nothing is sampled yet
    stages.sample().store.begin({})
    opened(judge)  # a further judge: nothing finished is redone
    with pytest.raises(UserError, match=r"sampling\.temperature.*depend on them \(sample\)"):
        opened(hotter)
    opened(hotter, rerun=True).sample().store.begin({})
    opened()  # its results are there still
    shutil.copy(files / "train.jsonl", tmp_path / "moved.jsonl")
    opened(nested("data.train", str(tmp_path / "moved.jsonl")))
    with pytest.raises(UserError, match=r"data\.train\.path.*questions-train, sample"):
        opened(nested("data.train", str(files / "more.jsonl")))


def test_an_examiner_that_is_changed_is_checked_again_and_another_beside_it_is_not(opened, files):
    stages = opened()
    for check in stages.judge_checks()[1]:
        check.stage.store.begin({})
    third = {"third": {"annotator": "anah", "model": str(files / "other")}}
    more = opened(nested("evaluation.judges", third))  # a further judge redoes nothing
    assert [check.key for check in more.judge_checks()[1] if not check.stage.store.begun] == [
        "evaluation.judges.third"
    ]
    other = nested("annotation.max_tokens", 7)
    with pytest.raises(UserError, match=r"annotation\.max_tokens.*depend on them \(judge-check\)"):
        opened(other)
    opened(other, rerun=True)


def test_a_band_is_no_other_check_of_the_members(files, tmp_path):
    [tree] = [each for each in bases(files) if "cascade" in each["annotation"]]
    tree = merged(tree, {"run_dir": str(tmp_path / "run")})
    for check in Stages(build_config(tree)).judge_checks()[1]:
        if check.stage:
            check.stage.store.begin({})
    checks = Stages(build_config(merged(tree, nested("annotation.bands", [0.5])))).judge_checks()[1]
    assert [check.key for check in checks if check.same == check.key] == [
        "annotation", "annotation.cascade.0", "annotation.cascade.1",
    ]  # fmt: skip
    assert [check.stage.store.begun for check in checks if check.stage] == [True] * 4


def test_a_run_that_nobody_annotates_yet_has_a_plan_with_test_questions_too(files):
    """Candidates are sampled, and the base answers; what is trained is not known yet."""
    tree = merged(bases(files)[0], {"evaluation": None})
    config = build_config({**tree, "annotation": None, "evaluation": {}})
    names = [store.name for store in Stages.planned(config)]
    assert names == ["questions-train", "sample", "questions-test", "answer-base"]
