"""Annotators of other people: how they are found, what they may answer, what their failures are."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

import maskdpo_ray
from maskdpo_ray.annotation import Annotator, Mark, Verdict
from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.annotation.marks import verdicts_of_marks
from maskdpo_ray.annotation.registry import with_setting
from maskdpo_ray.cli import main
from maskdpo_ray.config import AnnotationConfig, build_config
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.stages.annotating import build_annotator

RULE = """
def verdict(question, sentence):
    return "ok" if question["topic"] in sentence else "contradictory"
"""
CHECKER = """
from maskdpo_ray.annotation import AnnotationConfig, Annotator, Verdict
from maskdpo_ray.config.section import Content, How, Secret


class Settings(AnnotationConfig):
    words: Content[str]
    threshold: float = 0.5
    batch: How[int] = 8
    token: Secret[str | None] = None


class Checker(Annotator):
    Settings = Settings
    needs = {"document"}

    async def verdict(self, question, sentence):
        return Verdict("ok", f"at {self.settings.threshold}", 0.75)


class Neither(Annotator):
    pass
"""


def row(*responses: str, **changes) -> dict:
    candidates = [
        {
            "index": n, "seed": 0, "model": "m", "response": response, "token_ids": [1],
            "finish_reason": "stop", "decoding": "sampled", "sentences": [],
        }
        for n, response in enumerate(responses)
    ]  # fmt: skip
    question = {"id": "q", "topic": "Ada", "question": "Who?", "document": None, "language": "en"}
    return {**question, "candidates": candidates, **changes}


ODD = """
from functools import partial
from maskdpo_ray.annotation import Annotator

def one(question): return "ok"
def three(a, b, c): return "ok"
part = partial(three, c=1)

class Plain:
    def verdict(self, question, sentence): return "ok"

class Short(Annotator):
    def verdict(self, question): return "ok"

class Answers(Annotator):
    def verdicts(self, question, sentence): return ["ok"]
"""


def annotated(annotator, *rows: dict) -> list:
    return asyncio.run(Annotate(annotator)(list(rows)))


def sentences(out: dict) -> list[list[tuple]]:
    return [
        [(each["verdict"], each["detail"], each["confidence"]) for each in candidate["sentences"]]
        for candidate in out["candidates"]
    ]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with annotators of one's own; modules of a new name for each test."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}_rule.py").write_text(RULE)
    (tmp_path / f"{name}_checker.py").write_text(CHECKER)
    (tmp_path / "words.txt").write_text("one")
    return name


def test_a_function_in_the_working_directory_is_an_annotator(here):
    settings = AnnotationConfig.of(annotator=f"{here}_rule:verdict")
    [out] = asyncio.run(build_annotator(settings)([row("Ada won. He lost.")]))
    assert sentences(out) == [[("ok", "", None), ("contradictory", "", None)]]


def test_the_verdicts_of_a_function_depend_on_its_file(here, tmp_path):
    settings = AnnotationConfig.of(annotator=f"{here}_rule:verdict")
    before = settings.kind.identity(settings, "annotation")
    assert before == settings.kind.identity(settings, "annotation")
    (tmp_path / f"{here}_rule.py").write_text(RULE.replace("contradictory", "unverifiable"))
    assert settings.kind.identity(settings, "annotation") != before


def test_a_class_has_settings_that_say_what_they_are(here, tmp_path):
    def identity(**changed) -> dict:
        given = {"annotator": f"{here}_checker:Checker", "words": "words.txt", **changed}
        settings = AnnotationConfig.of(**given)
        return settings.kind.identity(settings, "annotation")

    before = identity()
    assert identity(batch=9) == identity(token="s") == before
    assert identity(threshold=0.4) != before
    (tmp_path / "same.txt").write_text("one")
    assert identity(words="same.txt") == before
    (tmp_path / "words.txt").write_text("two")
    assert identity() != before
    with pytest.raises(UserError, match="cannot read gone.txt"):
        identity(words="gone.txt")


def tree(**annotation) -> dict:
    return {"run_dir": "x", "world": {}, "annotation": annotation}


def test_its_keys_are_checked_like_ours_and_saved_with_the_run(here):
    given = {"annotator": f"{here}_checker:Checker", "words": "words.txt", "token": "s3cret"}
    config = build_config(tree(**given))
    of_all = AnnotationConfig.model_fields.keys() - {"annotator", "prune"}
    saved = config.saved()["annotation"]
    assert {key: value for key, value in saved.items() if key not in of_all} == {
        "annotator": f"{here}_checker:Checker",
        "prune": False,
        "words": "words.txt",
        "threshold": 0.5,
        "batch": 8,
    }
    assert build_config(config.saved()).annotation.words == "words.txt"
    with pytest.raises(UserError, match="unknown key 'annotation.treshold': did you mean 'thresh"):
        build_config(tree(**given, treshold=1))
    with pytest.raises(UserError, match="annotation.words is missing"):
        build_config(tree(annotator=f"{here}_checker:Checker"))
    judge = {**tree(annotator="closed_world"), "evaluation": {"judges": {"own": given | {"x": 1}}}}
    with pytest.raises(UserError, match="unknown key 'evaluation.judges.own.x'"):
        build_config(judge)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("juge", "annotator 'juge' is not known: did you mean 'judge'"),
        ("nowhere_at_all:verdict", "cannot be imported: ModuleNotFoundError: No"),
        ("json:verdict", "json has no 'verdict'"),
        ("json:decoder", "neither a function"),
        ("{}_checker:Neither", "must define one of verdict and verdicts"),
        (7, "annotator must be a name, not 7"),
        ("{}_raises:verdict", "cannot be imported: RuntimeError: no licence"),
        ("{}_syntax:verdict", "cannot be imported: SyntaxError: "),
        ("{}_odd:one", "must take question, sentence: too many positional arguments"),
        ("{}_odd:three", "must take question, sentence: missing a required argument: 'c'"),
        ("{}_odd:part", "neither a function"),
        ("{}_odd:Plain", "neither a function"),
        ("{}_odd:Short", "Short.verdict' must take self, question, sentence: too many"),
        ("{}_odd:Answers", "Answers.verdicts' must take self, question, response, sentences: too"),
    ],
)
def test_an_annotator_that_is_none_is_refused(name, words, here):
    Path(f"{here}_raises.py").write_text("raise RuntimeError('no licence')")
    Path(f"{here}_syntax.py").write_text("def verdict(")
    Path(f"{here}_odd.py").write_text(ODD)
    with pytest.raises(UserError, match=re.escape(words)):
        build_config(tree(annotator=name.format(here) if isinstance(name, str) else name))


def test_a_broken_package_hides_no_other_annotator(tmp_path, monkeypatch, capsys):
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    group = "[maskdpo_ray.annotators]\nbroken = nowhere_at_all:X\n"
    (info / "entry_points.txt").write_text(group)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["annotators"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert "ModuleNotFoundError: No module named" in lines["broken"]
    assert lines["judge"].startswith("Any chat model") and "templates" in lines["judge"]


def test_a_question_without_a_document_is_rejected_where_one_is_needed(here):
    settings = AnnotationConfig.of(annotator=f"{here}_checker:Checker", words="words.txt")
    rows = [row("Ada won."), row("Ada won.", document="Ada")]
    refused, out = asyncio.run(build_annotator(settings)(rows))
    assert isinstance(refused, RowRejected) and refused.reason == "document_missing"
    assert sentences(out) == [[("ok", "at 0.5", 0.75)]]


class Own(Annotator):
    def __init__(self):
        self.asked = []


class ByAnswer(Own):
    def verdicts(self, question, response, sentences):
        self.asked.append(response)
        return ["ok" if "Ada" in each else Verdict("contradictory", "no") for each in sentences]


def test_whole_answers_are_asked_once_each_and_never_pruned():
    annotator = ByAnswer()
    [out] = annotated(annotator, row("Ada won. He lost.", "He lost.", "Ada won. He lost.", ""))
    both = [("ok", "", None), ("contradictory", "no", None)]
    assert sentences(out) == [both, both[1:], both, []]
    assert annotator.asked == ["Ada won. He lost.", "He lost."]
    assert ByAnswer.why_not_pruned() == "judges whole answers"


class Failing(Own):
    def __init__(self, says):
        super().__init__()
        self.says = says

    async def verdict(self, question, sentence):
        if "?" in sentence:
            return self.says()
        return "ok"


def raises():
    raise KeyError("Ada")


@pytest.mark.parametrize(
    ("says", "detail"),
    [
        (raises, "KeyError: 'Ada'"),
        (
            lambda: "true",
            "ValueError: Failing answered 'true' on question 'q'; a verdict is",
        ),
        (lambda: None, "ValueError: Failing answered None on question 'q'; a verdict is"),
        (lambda: {"verdict": "ok"}, "ValueError: Failing answered {'verdict': 'ok'}"),
        (lambda: "skipped", "ValueError: Failing answered 'skipped'"),
        (lambda: ("ok", {"why": "x"}), "ValueError: the detail of a verdict is a text, not dict"),
        (lambda: ("ok", "", 1.5), "ValueError: a confidence is a probability, not 1.5"),
        (lambda: ("ok", "", "0.5"), "ValueError: a confidence is a probability, not '0.5'"),
        (lambda: ("ok", "", float("nan")), "ValueError: a confidence is a probability, not nan"),
        (lambda: ("ok", "", True), "ValueError: a confidence is a probability, not True"),
        (lambda: ("error", "\ud800"), "\\ud800"),
    ],
)
def test_a_failure_is_the_error_of_its_sentence_alone(says, detail):
    [out] = annotated(Failing(says), row("Ada won. Who? He lost."))
    [[first, failed, last]] = sentences(out)
    assert first[0] == last[0] == "ok" and failed[0] == "error"
    assert failed[1].startswith(detail)


def test_what_comes_of_a_numeric_library_is_a_probability():
    """Of half precision, and a little above one."""
    for given, kept in ((np.float32(0.25), 0.25), (np.float16(0.5), 0.5), (1.0004, 1.0), (1, 1.0)):
        [out] = annotated(Failing(lambda given=given: ("ok", None, given)), row("Who? Ada won."))
        said = out["candidates"][0]["sentences"][0]
        assert (said["confidence"], type(said["confidence"]), said["detail"]) == (kept, float, "")


def test_an_annotator_may_do_to_its_question_what_it_likes():
    class Changing(Own):
        def verdict(self, question, sentence):
            question["id"] = question.pop("topic")
            question["candidates"] = None
            return "ok"

    given = row("Ada won. He lost.")
    [out] = annotated(Changing(), given)
    assert [said[0] for said in sentences(out)[0]] == ["ok", "ok"] and out["id"] == given["id"]


def test_one_that_fails_on_everything_ends_the_run_with_the_reason():
    many = row(" ".join(f"Is it {n}?" for n in range(20)))
    with pytest.raises(UserError, match="failed on all of the first 8 sentences; the last: KeyErr"):
        annotated(Failing(raises), many)
    [out] = annotated(Failing(raises), row("Ada won. " + many["candidates"][0]["response"]))
    assert [said[0] for said in sentences(out)[0]].count("error") == 20


def test_a_row_or_the_run_may_be_refused_by_what_it_raises():
    class Refusing(Own):
        def verdict(self, question, sentence):
            raise RowRejected("unknown_topic", "nobody")

    class Broken(Own):
        def verdict(self, question, sentence):
            raise UserError("the licence has ended")

    assert isinstance(annotated(Refusing(), row("Ada won."))[0], RowRejected)
    with pytest.raises(UserError, match="licence"):
        annotated(Broken(), row("Ada won."))


TEXT = "Ada won in 1901.  She was a baker. Hello."
SPANS = [(0, 18), (18, 35), (35, 41)]


@pytest.mark.parametrize(
    ("marks", "verdicts"),
    [
        ([], "ok ok ok"),
        ([Mark(11, 15, "contradictory")], "contradictory ok ok"),
        ([Mark(16, 18, "contradictory")], "ok ok ok"),  # white space alone
        ([Mark(11, 24, "unverifiable")], "unverifiable unverifiable ok"),
        ([Mark(0, 3, "unverifiable"), Mark(4, 7, "contradictory")], "contradictory ok ok"),
        ([Mark(0, 3, "error"), Mark(4, 7, "ok")], "error ok ok"),
        ([Mark(0, 3, "error"), Mark(4, 7, "unverifiable")], "unverifiable ok ok"),
        ([Mark(35, 40, "nofact"), Mark(0, 41, "ok")], "ok ok ok"),
        ([Mark(35, 40, "nofact")], "ok ok nofact"),
    ],
)
def test_marks_become_verdicts_on_the_sentences_they_touch(marks, verdicts):
    assert [said.verdict for said in verdicts_of_marks(marks, TEXT, SPANS)] == verdicts.split()


def test_a_sentence_has_the_highest_confidence_of_its_gravest_marks():
    marks = [
        Mark(0, 3, "contradictory", "name", 0.6), Mark(4, 7, "contradictory", "verb", 0.8),
        Mark(8, 10, "ok", "in", 0.99),
    ]  # fmt: skip
    assert verdicts_of_marks(marks, TEXT, SPANS)[0] == Verdict("contradictory", "name; verb", 0.8)


@pytest.mark.parametrize(
    "answered", [["ok"], [Mark(0, 400, "ok")], [Mark(3, 3, "ok")], [Mark(0, 3, "true")], 5]
)
def test_an_answer_that_cannot_be_mapped_is_an_error_of_all_its_sentences(answered):
    class Odd(Own):
        def verdicts(self, question, response, sentences):
            return answered

    [out] = annotated(Odd(), row("Ada won. He lost."))
    assert [said[0] for said in sentences(out)[0]] == ["error", "error"]


def test_a_gpu_and_the_closed_world_are_asked_for_at_the_start(here, tmp_path):
    name = f"{here}_gpu"
    (tmp_path / f"{name}.py").write_text(
        "from maskdpo_ray.annotation import Annotator\n"
        "class OnGpu(Annotator):\n    needs = {'gpu'}\n    def verdict(self, q, s): return 'ok'\n"
        "class InWorld(OnGpu):\n    needs = {'world'}\n"
    )
    given = tree(annotator=f"{name}:OnGpu")
    with pytest.raises(UserError, match="needs a GPU: set resources.annotator.gpus=1"):
        build_config(given)
    build_config(given | {"resources": {"annotator": {"gpus": 1}}})
    outside = {"world": None, "model": {"path": "m"}, "data": {"train": "q.jsonl"}}
    with pytest.raises(UserError, match="knows only the closed world"):
        build_config(tree(annotator=f"{name}:InWorld") | outside)


def test_weights_by_confidence_need_an_annotator_that_tells_it(here):
    given = {**tree(annotator=f"{here}_rule:verdict"), "preference": {"weights": "confidence"}}
    with pytest.raises(UserError, match="needs verdicts that come with one"):
        build_config(given)


def test_no_name_of_an_annotator_stands_outside_of_its_file():
    """Nor in the configuration, the stages or the experiments: a new one is one new file."""
    package = Path(maskdpo_ray.__file__).parent
    folders = [package, *(package / f for f in ("annotation", "config", "stages", "experiments"))]
    files = [file for folder in folders for file in folder.glob("*.py")]
    assert len(files) > 60
    ours = "|".join(with_setting("annotator"))
    named = re.compile(rf"(?<![\w.[])['\"]({ours})['\"](?!:)|annotator: ({ours})")
    found = {file.name: named.findall(code(file)) for file in files}
    assert not {name: hits for name, hits in found.items() if hits}


def code(file: Path) -> str:
    """Its text without docstrings and comments."""
    return re.sub(r'""".*?"""|#[^\n]*', "", file.read_text(), flags=re.DOTALL)
