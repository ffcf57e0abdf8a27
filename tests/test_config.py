from pathlib import Path

import pytest

from maskdpo_ray.config import (
    Config,
    SourceConfig,
    apply_override,
    build_config,
    differing_keys,
    read_config,
)
from maskdpo_ray.config.errors import section_at
from maskdpo_ray.config.from_trl import FROM_TRL, OURS
from maskdpo_ray.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "jobs" / "configs").glob("*.yaml"))


def tree(**sections):
    return {"run_dir": "x", "world": {}, "annotation": {"annotator": "closed_world"}, **sections}


def message(**sections) -> str:
    with pytest.raises(UserError) as caught:
        build_config(tree(**sections))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path):
    config = read_config(path)
    assert build_config(config.model_dump(mode="json")) == config


def test_an_unknown_key_names_the_nearest_valid_one():
    assert "'sampling.candidatez': did you mean 'candidates'?" in message(
        sampling={"candidatez": 3}
    )
    assert "'trainign': did you mean 'training'?" in message(trainign={})
    assert "'systems.dpo.maks': did you mean 'mask'?" in message(systems={"dpo": {"maks": "none"}})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"training": {"save_steps": 50}}, "'training.save_steps': set training.checkpoint_every"),
        ({"training": {"eval_steps": 50}}, "set training.eval_every (with training.holdout)"),
        ({"num_train_epochs": 1}, "'num_train_epochs': set training.epochs"),
        ({"beta": 0.2}, "'beta': set training.beta"),
        ({"model": {"torch_dtype": "auto"}}, "set model.dtype (bfloat16 or float32)"),
        ({"training": {"report_to": "wandb"}}, "set tracking.report_to"),
        ({"training": {"lora": {"r": 8}}}, "'training.lora.r': set training.lora.rank"),
        (
            {"training": {"per_device_train_batch_size": 2}},
            "set training.batch_size (all pairs of a step, over workers and passes; "
            "training.micro_batch_tokens bounds a pass)",
        ),
        (
            {"systems": {"dpo": {"rpo_alpha": 1.0}}},
            "'systems.dpo.rpo_alpha': set systems.dpo.nll_weight",
        ),
        ({"systems": {"a": {"lora": {"lora_alpha": 8}}}}, "set systems.a.lora.alpha"),
        ({"systems": {"a": {"attn_implementation": "eager"}}}, "set training.attention"),
        ({"systems": {"a": {"max_length": 512}}}, "set preference.max_length"),
        ({"sampling": {"max_length": 512}}, "did you mean 'max_tokens'?"),
    ],
)
def test_names_of_other_trainers_lead_to_ours(sections, words):
    assert words in message(**sections)


def test_the_page_shows_the_names_of_other_trainers_as_they_are_known():
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    section = page.partition("## Coming from TRL\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip().replace("`", "") for cell in row.split("|")[1:-1]] for row in rows]
    assert [tuple(row) for row in cells] == list(FROM_TRL)


def test_what_other_names_lead_to_exists():
    for name, (key, _) in OURS.items():
        *parents, leaf = key.split(".")
        assert leaf in section_at(Config, parents, {}).model_fields, (name, key)


def test_one_candidate_is_refused_with_the_reason():
    assert "a preference pair needs a best and a worst" in message(sampling={"candidates": 1})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"annotation": {"annotator": "anah"}}, "annotation: model or endpoint is missing"),
        (
            {"annotation": {"annotator": "closed_world", "model": "m"}},
            "it is of annotator anah and ",
        ),
        ({"annotation": {"annotator": "labels"}}, "set sampling.source=input"),
        ({"world": None}, "model.path is missing"),
        ({"data": {"test": "t.jsonl"}}, "world provides the questions: remove data.test or world"),
        ({"data": {"train": "t.jsonl"}}, "world provides the questions: remove data.train or"),
        ({"systems": {"base": {}}}, "cannot name a trained system"),
        ({"evaluation": {"samples": 4, "best_of_n": [8]}}, "set evaluation.samples=8"),
        ({"training": {"deepspeed": {"gradient_clipping": 1}}}, "training.max_grad_norm"),
        (
            {"model": {"dtype": "float32"}, "training": {"attention": "flash_attention_2"}},
            "set model.dtype=bfloat16, or training.attention=sdpa",
        ),
        ({"systems": {"a": {"use_liger_kernel": True}}}, "set training.use_liger_kernel"),
        ({"systems": {"a": {"load_in_4bit": True, "lora": {}}}}, "set training.load_in_4bit"),
        ({"training": {"load_in_4bit": True}}, "cannot learn: set lora, or remove load_in_4bit"),
        (
            {"training": {"load_in_4bit": True, "lora": {}, "zero_stage": 3}},
            "zero_stage=3 cannot shard weights in 4 bits: set zero_stage=2",
        ),
        ({"training": {"deepspeed": {"zero_optimization": {"stage": 3}}}}, "training.zero_stage"),
        ({"rounds_reference": "first"}, "of a round after the first: set rounds=2 or more"),
        ({"resources": {"sampler": {"actors": [3, 1]}}}, "1 <= least <= most"),
        ({"resources": {"training": {"workers": [2, 1]}}}, "1 <= least <= most"),
        ({"resources": {"training": {"resize_seconds": 5}}}, "is of workers: [least, most]"),
        ({"sampling": {"engine": {"tensor_parallel_size": 2}}}, "resources.sampler.gpus=2"),
        ({"sampling": {"engine": {"tensor_parallel_size": "2"}}}, "must be a whole number"),
        ({"sampling": {"engine": {"model": "m"}}}, "decided by the section's model"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature: Input should be greater than 0"),
        ({"sampling": {"candidates": 100_000}}, "set at most that"),
        ({"sampling": {"source": "input"}}, "the closed world brings no answers"),
        (
            {"annotation": {"annotator": "closed_world", "max_tokens": 9}},
            "it is of annotator anah and ",
        ),
        (
            {"annotation": {"annotator": "closed_world", "confidence": True}},
            "is of annotator judge",
        ),
        ({"annotation": {"annotator": "closed_world", "error_rate": 0.5}}, "less than 0.5"),
        (
            {"annotation": {"annotator": "anah", "model": "m", "error_rate": 0.1}},
            "is of annotator closed_world",
        ),
        ({"preference": {"weights": "confidence"}}, "needs verdicts that come with one"),
        (
            {
                "preference": {"shared_openings": "mask"},
                "annotation": {"annotator": "closed_world", "prune": True},
            },
            "pruned ones are not judged: set annotation.prune=false",
        ),
        (
            {
                "preference": {"pairs": "all_candidates"},
                "training": {"loss": "fkto"},
                "annotation": {"annotator": "closed_world", "prune": True},
            },
            "learns from all candidates, and pruned ones are not judged",
        ),
        (
            {
                "systems": {"a": {"preference": {"select": "net"}}},
                "annotation": {"annotator": "closed_world", "prune": True},
            },
            "systems.a.preference selects other pairs than preference, and annotation.prune",
        ),
        (
            {"systems": {"a": {"preference": {"selct": "net"}}}},
            "unknown key 'systems.a.preference.selct': did you mean 'select'?",
        ),
        ({"systems": {"a": {"preference": {"f1_k": 3}}}}, "f1_k is of select=f1@k"),
        ({"systems": {"a": {"preference": "net"}}}, "systems.a.preference must be a mapping"),
        (
            {"systems": {"a": {"preference": {"questions": "q.jsonl"}}}},
            "systems.a.preference.questions: systems learn from the same questions",
        ),
        (
            {"systems": {"a": {"preference": {"pairs": "all_candidates"}}}},
            "systems.a compares them",
        ),
        (
            {"preference": {"pairs": "all_candidates"}, "systems": {"a": {}}},
            "systems.a compares them: set training.loss=fkto",
        ),
        (
            {"preference": {"pairs": "all_candidates", "pairs_per_question": 2}},
            "neither selects nor compares answers: remove pairs_per_question",
        ),
        (
            {"preference": {"pairs": "all_candidates", "reasoning": "keep"}},
            "learns sentences, and reasoning is of what stands in none: remove reasoning",
        ),
        ({"evaluation": {"annotation": {"annotator": "labels"}}}, "cannot judge new answers"),
        ({"resources": {"sampler": {"actors": 0}}}, "a number of at least 1 or [least, most]"),
        ({"training": {"beta": 0}}, "training.beta: Input should be greater than 0"),
        (
            {"training": {"loss": "hinge", "label_smoothing": 0.1}},
            "training.label_smoothing: loss 'hinge' has no label smoothing",
        ),
        (
            {
                "training": {"label_smoothing": 0.1},
                "systems": {"a": {}, "b": {"loss": "kto_pair"}},
            },
            "systems.b.label_smoothing: loss 'kto_pair' has no label smoothing",
        ),
        (
            {"training": {"anchor_weight": 0.1}, "systems": {"a": {}, "dpo": {"mask": "none"}}},
            "anchor_weight holds correct sentences up, and mask=none knows none",
        ),
        ({"training": {"loss": "ipo", "margin": 0.5}}, "margin: loss 'ipo' has no margin"),
        ({"training": {"loss": "robust", "gap_margin": 1}}, "loss 'robust' has no gap margin"),
        ({"training": {"loss": "kto_pair", "dpop_weight": 1}}, "'kto_pair' has no dpop weight"),
        ({"training": {"loss": "fkto", "nll_weight": 1}}, "loss 'fkto' has no nll weight"),
        (
            {"training": {"loss": "fkto", "rejected_floor": 5}},
            "has no rejected floor: set it to null",
        ),
        ({"training": {"incorrect_weight": 2}}, "'sigmoid' has no incorrect weight: set it to 1"),
        (
            {"training": {"loss": "fkto"}, "systems": {"a": {}, "dpo": {"mask": "none"}}},
            "takes sentences by their verdicts, and mask=none knows none",
        ),
        ({"training": {"ratios": "mean", "ld_alpha": 0.5}}, "set ratios=sum, or remove it"),
        ({"training": {"loss": "ipo", "ld_alpha": 0.5}}, "set ratios=sum, or remove it"),
        ({"training": {"reference_free": True}}, "whose sums tell the length: set ratios=mean"),
        *(
            (
                {"training": {"reference_free": True, "ratios": "mean", **against}},
                "is against the reference: remove it or reference_free",
            )
            for against in (
                {"dpop_weight": 1},
                {"rejected_floor": 5},
                {"anchor_weight": 1, "anchor": "reference"},
            )
        ),
        ({"training": {"anchor": "reference"}}, "set anchor_weight, or remove it"),
        ({"training": {"rejected_floor_per": "token"}}, "set rejected_floor, or remove it"),
        ({"training": {"rejected_floor": 0}}, "rejected_floor: Input should be greater than 0"),
        ({"training": {"lora": {"dropout": 0.1}}}, "differ from its reference"),
        ({"model": {"revision": "main"}}, "world provides the model: remove model.revision"),
        ({"systems": {"a": {"attention": "eager"}}}, "set training.attention"),
        ({"systems": {"a": {"packing": False}}}, "set training.packing"),
        ({"systems": {"a": {"preset": [1]}}}, "systems.a.preset: Input should be"),
        ({"training": {"eval_every": 5}}, "set holdout, or remove it"),
        ({"training": {"sample_tokens": 5}}, "sample_tokens: nothing is sampled: set sample_every"),
        ({"training": {"sample_every": 0}}, "greater than or equal to 1"),
        ({"training": {"betas": [0.9, 1.5]}}, "training.betas.1: Input should be less than 1"),
        ({"training": {"deepspeed": {"data_types": {}}}}, "gradients add up in float32"),
        ({"training": {"deepspeed": {"stage": 3}}}, "'stage' has no effect here; known: zero_opt"),
        ({"training": {"deepspeed": {"zero_optimization": 3}}}, "must be a mapping"),
        ({"training": {"deepspeed": {"zero_optimization": None}}}, "must be a mapping"),
        ({"tracking": {"project": "mine"}}, "project is of wandb and mlflow"),
        ({"run_dir": ""}, "run_dir: String should have at least 1 character"),
        ({"training": {"lora": {"target_modules": []}}}, "nothing would be trained"),
        ({"training": {"lora": {"export": "adapter"}}}, "set training.lora.export=merged"),
        ({"training": {"lora": {"rnak": 4}}}, "'training.lora.rnak': did you mean 'rank'?"),
    ],
)
def test_what_would_be_ignored_or_fail_later_is_refused(sections, words):
    assert words in message(**sections)


def test_overrides_reach_their_section_and_are_checked(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: runs/{seed}\nworld: {}\nannotation: {annotator: closed_world}\n")
    config = read_config(
        path, ["training.learning_rate=5e-7", "seed=3", "sampling.engine.a=[1, 2]"]
    )
    assert config.training.learning_rate == 5e-7
    assert config.run_dir == "runs/3"
    assert config.sampling.engine == {"a": [1, 2]}
    with pytest.raises(UserError, match="must read section.key=value"):
        read_config(path, ["seed"])
    with pytest.raises(UserError, match="unknown key 'training.betta': did you mean 'beta'"):
        read_config(path, ["training.betta=1"])


LABELLED = {
    "world": None,
    "model": {"path": "m"},
    "data": {"train": "q.jsonl"},
    "sampling": {"source": "input"},
    "annotation": {"annotator": "labels"},
}


def test_what_answers_the_test_questions_may_be_set_only_where_there_are_any():
    engine = {"sampling": {"source": "input", "engine": {"max_model_len": 512}}}
    judge = {"annotation": {"annotator": "judge", "model": "j"}}
    tested = {"data": {"train": "q.jsonl", "test": "t.jsonl"}, "evaluation": judge}
    build_config(tree(**LABELLED))
    build_config(tree(**{**LABELLED, **tested, **engine}))
    assert "would start only to answer data.test" in message(**{**LABELLED, **engine})
    words = "evaluation.samples is of answers to data.test"
    assert words in message(**LABELLED, evaluation={"samples": 32})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"train": 7}, "data.train: a path, a URL or the id of a data set, or a mapping"),
        ({"train": {"name": "x"}}, "data.train.path is missing"),
        ({"train": {"path": "a/b", "splitt": "x"}}, "'data.train.splitt': did you mean 'split'?"),
        ({"train": {"path": "q.jsonl", "split": "train"}}, "split is of a data set, and q.jsonl"),
        ({"train": "q.parquet", "columns": {"topik": "x"}}, "did you mean 'topic'?"),
        (
            {"train": "q.jsonl", "columns": {"prompt": "question"}},
            "comes first: {question: prompt}",
        ),
        ({"train": "q.jsonl", "test": "t.jsonl", "split": {"test": 0.1}}, "remove it, or test"),
        ({"train": "q.jsonl", "split": {"test": 1}}, "data.split.test: Input should be less than"),
        ({"train": "q", "format": "pairs", "split": {"test": 0.1}}, "brings no test questions"),
        ({"train": "q", "format": "pairs", "columns": {"topic": "t"}}, "remove columns"),
        ({"train": {"path": "q", "columns": {}}, "format": "pairs"}, "remove train.columns"),
    ],
)
def test_data_that_could_not_be_read_as_told_is_refused(data, words):
    assert words in message(**{**LABELLED, "data": data})


@pytest.mark.parametrize("section", [{"split": {"test": 0.1}}, {"columns": {"topic": "t"}}])
def test_the_world_has_questions_of_its_own(section):
    assert f"remove data.{next(iter(section))} or world" in message(data=section)


def test_a_path_alone_is_a_source_and_a_split_makes_test_questions():
    judge = {"annotation": {"annotator": "judge", "model": "j"}}
    data = {"train": "q.jsonl", "split": {"test": 0.1}}
    config = build_config(tree(**{**LABELLED, "data": data, "evaluation": judge}))
    assert config.evaluates
    assert config.data.source("test") == config.data.train == SourceConfig(path="q.jsonl")
    assert build_config(config.model_dump(mode="json")) == config


def test_a_system_changes_what_it_names_and_nothing_else():
    lora, given = {"rank": 8, "alpha": 99}, {"lora": {"rank": 4}}
    config = build_config(tree(training={"lora": lora}, systems={"a": given, "b": {"lora": None}}))
    assert config.training_of("a").lora.model_dump(include={"rank", "alpha"}) == {
        "rank": 4,
        "alpha": 99,
    }
    assert config.training_of("b").lora is None


def test_a_preset_stands_below_what_is_given():
    config = build_config(
        tree(
            training={"preset": "released", "epochs": 1},
            systems={"a": {}, "b": {"preset": "paper"}, "c": {"learning_rate": 1e-3}},
        )
    )
    assert (config.training.learning_rate, config.training.epochs) == (5e-7, 1)
    assert config.training_of("a").learning_rate == 5e-7
    assert config.training_of("b").learning_rate == 5e-6
    assert config.training_of("c").learning_rate == 1e-3


def test_missing_and_malformed_files(tmp_path):
    with pytest.raises(UserError, match="no configuration file at"):
        read_config(tmp_path / "none.yaml")
    path = tmp_path / "c.yaml"
    path.write_text("a: [")
    with pytest.raises(UserError, match="is not YAML"):
        read_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read: 'utf-8' codec"):
        read_config(path)
    path.write_text("- a")
    with pytest.raises(UserError, match="must hold `key: value` sections"):
        read_config(path)


def test_differing_keys_are_dotted():
    assert differing_keys({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 2, "c": 2}}) == ["a.b", "d"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {beta: 0.2}\ntraining: {epochs: 1}", "'training' stands twice, in lines"),
        ("training:\n  beta: 0.2\n  beta: 0.3", "'beta' stands twice, in lines 2 and 3"),
        ("seed: " + 5000 * "1", "is not YAML: Exceeds the limit"),
        ("seed: " + 5000 * "[", "is not YAML: "),
    ],
)
def test_a_file_that_says_less_than_it_seems_to(text, words, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_config(tmp_path / "c.yaml")


def test_a_merged_mapping_may_be_changed(tmp_path):
    text = "run_dir: x\nworld: {}\nannotation: {annotator: closed_world}\n"
    text += "training: &t {beta: 0.2}\nsystems: {a: {<<: *t, beta: 0.3}}"
    (tmp_path / "c.yaml").write_text(text)
    assert read_config(tmp_path / "c.yaml").systems == {"a": {"beta": 0.3}}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.system_prompt=Use # for headings", "Use # for headings"),
        ("model.system_prompt=Answer: yes", "Answer: yes"),
        ("model.system_prompt=yes", "yes"),
        ("model.system_prompt=2026", "2026"),
        ("sampling.engine={a: 2026-02-30}", {"a": "2026-02-30"}),
        ("model.system_prompt=- be brief", "- be brief"),
        ('model.system_prompt="a # b"', "a # b"),
        ("model.system_prompt=null", None),
        ("model.system_prompt=", None),
        ("training.betas=[0.8, 0.9]", [0.8, 0.9]),
        ("systems.a.beta=1", 1),
        ("systems.a.loss=ipo", "ipo"),
        ("seed=010", "010"),  # ten, and not eight as in YAML 1.1
        ("seed=1:30", "1:30"),
        ("sampling.engine={a: 1e-5, b: 1_000, c: 0x1F}", {"a": 1e-5, "b": 1000, "c": 31}),
        (
            "sampling.engine={a: 1.5e3, b: .5, c: 1., d: 1e, e: +1}",
            {"a": 1500.0, "b": 0.5, "c": 1.0, "d": "1e", "e": 1},
        ),
        (
            "sampling.engine={a: -.inf, b: 1.2.3, c: 0, d: -0.5}",
            {"a": float("-inf"), "b": "1.2.3", "c": 0, "d": -0.5},
        ),
    ],
)
def test_an_override_of_a_text_is_taken_as_it_stands(override, value):
    settings = {}
    apply_override(settings, override)
    for key in override.partition("=")[0].split("."):
        settings = settings[key]
    assert settings == value


def test_an_override_may_name_an_entry_of_a_list():
    judge = {"annotator": "judge", "endpoint": {"model": "small"}}
    tree = {"annotation": {"cascade": [{"annotator": "encoder", "model": "a/b"}, judge]}}
    apply_override(tree, "annotation.cascade.1.endpoint.model=7")
    assert judge["endpoint"] == {"model": "7"}, "a text, as the judge's settings say"
    apply_override(tree, "annotation.cascade.0={annotator: judge}")
    assert tree["annotation"]["cascade"][0] == {"annotator": "judge"}
    for wrong in ("2.model=x", "first.model=x", "2={}"):
        with pytest.raises(UserError, match="the list has entries 0 to 1"):
            apply_override(tree, f"annotation.cascade.{wrong}")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.beta=0.1 # the paper's", 'takes "# the paper\'s" for a comment'),
        ("systems={a: {}, a: {}}", "'a' stands twice"),
        ("training.beta=[", "is not a YAML value"),
        (".seed=1", "must read section.key=value"),
        ("training..beta=1", "must read section.key=value"),
    ],
)
def test_an_override_that_would_lose_something(override, words):
    with pytest.raises(UserError, match=words):
        apply_override({}, override)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"run_dir": "a\0b"}, "run_dir: 'a\\x00b' holds a character that no file can hold"),
        ({"model": {"system_prompt": "a\ud800"}}, "model.system_prompt: 'a\\ud800' holds"),
        ({"sampling": {"engine": {"\0": 1}}}, "sampling.engine: '\\x00' holds"),
        ({"systems": {"a" * 101: {}}}, "cannot name a trained system"),
        ({"systems": {"是" * 34: {}}}, "cannot name a trained system"),
        ({"seed": 2**32}, "seed: Input should be less than 4294967296"),
    ],
)
def test_texts_and_numbers_that_would_fail_later_are_refused(sections, words):
    assert words in message(**sections)


def test_a_file_that_refers_to_itself(tmp_path):
    (tmp_path / "c.yaml").write_text("training: &t {beta: 0.1, deepspeed: *t}\nmodel: [*t, *t]")
    with pytest.raises(UserError, match="'beta' has no effect here"):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf"])
def test_numbers_are_finite(value):
    for section, key in (("training", "learning_rate"), ("training", "nll_weight")):
        assert f"{section}.{key}: Input should be a finite number" in message(
            **{section: {key: value}}
        )
