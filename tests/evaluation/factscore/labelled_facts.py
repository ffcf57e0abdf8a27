"""Facts that people wrote and labelled, in place of what models say."""

from collections.abc import Iterator

from maskdpo_ray.engine.chat_model import Reply

VERDICTS = {"S": "supported", "NS": "not_supported", "IR": "not_supported"}


class People:
    """A chat model that writes the facts which people wrote, and judges them as people did.

    Args:
        rows: of ``factscore_bio.jsonl``.
        model: whose answers.
    """

    def __init__(self, rows: list[dict], model: str) -> None:
        self.facts: dict[str, list[str]] = {}
        self.labels: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []
        for row in rows:
            for answer in answers_of(row, model):
                for sentence in answer["sentences"]:
                    text = answer["response"][sentence["start"] : sentence["end"]]
                    self.facts[text] = [fact["text"] for fact in sentence["facts"]]
                    for fact in sentence["facts"]:
                        self.labels[row["topic"], fact["text"]] = fact["label"]

    async def reply(self, messages, choices=None):
        question = messages[-1]["content"]
        self.asked.append(question)
        if choices is None:
            sentence = question.rpartition("Sentence: ")[2]
            facts = self.facts.get(sentence, [])
            return Reply("\n".join(f"- {fact}" for fact in facts) or "None", True)
        topic = question.partition("Passages about ")[2].partition(":\n")[0]
        fact = question.rpartition("Statement: ")[2].partition("\n")[0]
        return Reply(str(self.labels[topic, fact] == "S"), True)


def answers_of(row: dict, model: str) -> Iterator[dict]:
    yield from (answer for answer in row["candidates"] if answer["model"] == model)


def candidates(row: dict, model: str) -> list[dict]:
    return [
        {"index": 0, "decoding": "greedy", "response": answer["response"]}
        for answer in answers_of(row, model)
    ]
