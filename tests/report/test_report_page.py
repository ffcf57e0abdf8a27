import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tokenizers import gpt2_tokenizer
from selections import build_pair

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.report.build import build_report
from maskdpo_ray.report.html import pieces, render_html
from maskdpo_ray.report.write import telling_pairs, with_spans

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Elements of a page, the text of its answers, and whether its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, dict]] = []
        self.elements: list[tuple[str, dict]] = []
        self.answers: list[str] = []
        self.learnt: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append((tag, dict(attrs)))
        if self._class(-1) == "answer":
            self.answers.append("")
            self.learnt.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        inside = any(attributes.get("class") == "answer" for _, attributes in self.stack)
        if inside and "sup" not in [tag for tag, _ in self.stack]:
            self.answers[-1] += data
            if self._class(-1) == "learnt":
                self.learnt[-1] += data

    def _class(self, position):
        return self.stack[position][1].get("class") if self.stack else None


def test_answers_stand_in_full_with_what_is_learnt_from_marked(report, pair):
    page = Page(render_html(report, {}, [pair]))
    assert page.answers == ["A b. C d.", "A b. C d."]
    assert page.learnt == ["A b.", "C d."]
    verdicts = [a["class"] for _, a in page.elements if a.get("class", "").startswith("s ")]
    assert verdicts[-4:] == ["s ok", "s contradictory", "s nofact", "s unverifiable"]
    titles = [a["title"] for _, a in page.elements if "title" in a]
    assert titles[1] == "contradictory: contradictory 'because' <b>"


def test_the_end_of_the_turn_is_counted_among_what_is_learnt(report, pair):
    text = render_html(report, {}, [pair])
    assert "6 of 10 tokens learnt from, the end of the turn among them" in text
    pair["chosen"]["weights"][-1] = 0.0
    text = render_html(report, {}, [pair])
    assert re.search(r"5 of 10 tokens learnt from</span>", text)


LETTERS = st.sampled_from("a .\n<>&\"'/\u202e\u0645张😀é\u0301{}%")


@given(st.text(LETTERS, min_size=1), st.data())
def test_pieces_join_to_the_response_whatever_it_holds(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1)))) if len(text) > 1 else []
    ends = sorted({*cuts, len(text)})
    tokens = data.draw(st.integers(0, len(text)))  # the rest was cut off
    weights = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=tokens, max_size=tokens))
    sentences = pieces(
        {
            "response": text,
            "token_spans": [(n, n + 1) for n in range(tokens)],
            "weights": weights,
            "sentences": [
                {"start": start, "end": end, "verdict": "ok", "detail": ""}
                for start, end in zip([0, *ends], ends, strict=False)
            ],
        }
    )
    whole = "".join("".join(p["text"] for p in s["parts"]) + s["tail"] for s in sentences)
    assert whole == text
    parts = [part for sentence in sentences for part in sentence["parts"]]
    shown = [weight for part in parts for weight in [part["weight"]] * len(part["text"])]
    held = [
        (weights[n] if n < tokens else None)
        for s in sentences
        for n in range(s["start"], s["end"] - len(s["tail"]))
    ]
    assert shown == held


HOSTILE = "</script><script>alert(1)</script> \"'> <!-- {{ 7 * 7 }} {% x %} &amp; \u202eabc 张三。"

WRITABLE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@settings(max_examples=25, deadline=None)
@given(text=st.one_of(st.just(HOSTILE), WRITABLE))
def test_hostile_text_stays_text(text):
    side = {
        "response": text,
        "score": 0.0,
        "token_spans": [(0, len(text))],
        "weights": [1.0],
        "sentences": [{"start": 0, "end": len(text), "verdict": "ok", "detail": text}],
    }
    report = build_report(
        run=text,
        seed=0,
        versions={text: text},
        config={"data": {"format": "questions"}, text: text},
        manifests=[
            {"stage": "pair", "counts": {"in": 1, "out": 0, "rejected": {text: 1}}, "seconds": 0}
        ],
        systems={},
        best={},
        judges={},
        human_labels={},
        not_scored={},
        factscore={},
        win_rate={},
        short_form={},
        lm_eval={},
    )
    page = Page(render_html(report, {}, [{"question": text, "chosen": side, "rejected": side}]))
    assert page.answers == [text, text]
    assert not {tag for tag, _ in page.elements} & {"script", "iframe", "img", "link", "b"}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_the_page_is_self_contained_and_each_id_stands_once(report, training, pair):
    text = render_html(report, training, [pair])
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert "svg" in tags and not tags & {"script", "link", "img", "iframe"}
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', text)
    assert used and set(used) <= set(ids)


def test_the_same_run_gives_the_same_page(report, training, pair):
    assert render_html(report, training, [pair]) == render_html(report, training, [pair])


@pytest.mark.parametrize("count", [1, 13])
def test_every_system_stands_in_the_plots(report, training, count):
    names = [f"system{n}" for n in range(count)]
    detail = report["best_of_n_detail"]["base"]
    report["best_of_n_detail"] = {name: detail for name in names}
    text = render_html(report, {name: training["mask_dpo"] for name in names}, [])
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        assert [name for name in names if f">{name}<" in plot] == names


def test_a_report_in_the_middle_of_a_run_has_what_there_is(parts):
    empty = {"systems": {}, "best": {}, "manifests": parts["manifests"][:2]}
    text = render_html(build_report(**parts | empty), {"mask_dpo": []}, [])
    assert "0 of 10 questions gave a pair; 8 are not finished" in text
    assert "<svg" not in text and "Sentence score" not in text


# -- pairs to show ------------------------------------------------------------------------------

FIRST = "Ada Lovelace was born in London. She wrote notes 😀 about the engine. She died young."


def annotated(index: int, text: str, verdicts: list[str], tokenizer) -> dict:
    ends = [match.end() for match in re.finditer(r"\. ?", text)]
    return {
        "index": index,
        "seed": index,
        "model": "m",
        "response": text,
        "token_ids": tokenizer.encode(text),
        "finish_reason": "stop",
        "decoding": "sampled",
        "sentences": [
            {"start": start, "end": end, "verdict": verdict, "detail": ""}
            for start, end, verdict in zip([0, *ends], ends, verdicts, strict=False)
        ],
    }


@pytest.mark.parametrize("room", range(9, 22))
def test_a_pair_that_was_cut_anywhere_can_be_shown(real_data, report, room):
    tokenizer = gpt2_tokenizer(real_data)
    second = FIRST.replace("London", "Paris")
    question = {
        "id": "q",
        "topic": "Ada",
        "question": "?",
        "document": None,
        "language": "en",
        "candidates": [
            annotated(0, FIRST, ["ok", "ok", "ok"], tokenizer),
            annotated(1, second, ["contradictory", "ok", "ok"], tokenizer),
        ],
    }
    pair = build_pair(question, tokenizer, [1, 2], PreferenceConfig(max_length=2 + room))
    shown = with_spans(pair, tokenizer)
    assert len(shown["chosen"]["token_spans"]) == len(pair["chosen"]["weights"])
    text = render_html(report, {}, [shown])
    page = Page(text)
    assert page.answers[0] == FIRST
    assert ("cut at preference.max_length" in text) == (len(tokenizer.encode(FIRST)) > room)
    # Every sentence of the chosen side is correct: all that its tokens spell is learnt.
    kept = FIRST[: len(tokenizer.decode(pair["chosen"]["token_ids"]))]
    assert page.learnt[0].replace(" ", "") == kept.replace(" ", "")


def test_pairs_whose_mask_leaves_something_out_come_first():
    def pair(name, chosen, rejected):
        return {
            "id": name,
            "chosen": {"sentences": [{"verdict": verdict} for verdict in chosen]},
            "rejected": {"sentences": [{"verdict": verdict} for verdict in rejected]},
        }

    wrong, right = "contradictory", "ok"
    pairs = [
        pair("a", [right], [wrong]),
        pair("b", [right, wrong], [wrong]),
        pair("d", [right, wrong], [wrong, right]),
        pair("c", [right, wrong], [wrong, right]),
    ]
    assert [p["id"] for p in telling_pairs(pairs, 3)] == ["c", "d", "b"]


def test_what_the_policy_said_while_it_learnt_is_drawn_where_it_was_asked(report, training, pair):
    """Of a training that sampled nothing there is no curve; of some steps of another there is."""
    titles = ("sentences of a sampled answer", "score of sampled answers")
    assert not any(title in render_html(report, training, [pair]) for title in titles)
    training["mask_dpo"].insert(0, {"step": 0, "samples/sentences": 3.0, "samples/score": 40.0})
    training["mask_dpo"][3] |= {"samples/sentences": 1.0, "samples/score": 60.0}
    text = render_html(report, training, [pair])
    assert all(title in text for title in titles)
