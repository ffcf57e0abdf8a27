"""``maskdpo topics``: from a pool, the topics worth annotating for the questions at hand."""

from typing import Any

import numpy as np

from maskdpo_ray.config import TopicsConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.progress import say
from maskdpo_ray.questions import as_input
from maskdpo_ray.sources import Source
from maskdpo_ray.storage import Folder
from maskdpo_ray.topics.choose import choose
from maskdpo_ray.topics.distance import to_nearest
from maskdpo_ray.topics.embedding import Embedding, ModelEmbedding, RandomEmbedding
from maskdpo_ray.topics.pool import Topic, read_topics, without_targets


def choose_topics(given: TopicsConfig) -> None:
    """Write the questions of the chosen topics, and beside them a summary.

    Raises:
        UserError: a source or the model cannot be used, or the pool has fewer topics than the
            budget.
    """
    pool_source, target_source = _source(given, "pool"), _source(given, "target")
    everything, rejected = read_topics(pool_source)
    targets, target_rejected = read_topics(target_source)
    pool, left_out = without_targets(everything, targets)
    if left_out:
        say(
            f"{len(left_out)} topics of the pool are left out: they share their name or a question "
            f"with a target, first {left_out[0].name!r}"
        )
    if given.budget > len(pool):
        raise UserError(
            f"--budget {given.budget}: {pool_source} has {len(pool)} topics to choose from: give "
            "fewer, or a larger pool"
        )
    embedding = _embedding(given)
    vectors, target_vectors = (
        embedding.vectors([topic.text(given.text) for topic in topics])
        for topics in (pool, targets)
    )
    distances, nearest = to_nearest(vectors, target_vectors)
    keys = [topic.key for topic in pool]
    chosen = choose(keys, vectors, distances, given.budget, given.diversity)
    picked = [
        {
            "rank": rank,
            "topic": pool[index].name,
            "distance": float(distances[index]),
            "nearest": targets[nearest[index]].name,
            "questions": len(pool[index].questions),
        }
        for rank, index in enumerate(chosen, start=1)
    ]
    counts = {
        "pool": _counts(pool_source, everything, rejected),
        "left_out": [topic.name for topic in left_out],
        "targets": _counts(target_source, targets, target_rejected),
    }
    summary = counts | _summary(given, embedding, distances, picked, targets)
    _write(given.out, [pool[index] for index in chosen], picked, summary)
    print(_told(summary, given.out))


def _source(given: TopicsConfig, name: str) -> Source:
    source = getattr(given, name)
    key, default = ("--for", "test") if name == "target" else ("POOL", "train")
    columns = source.columns or given.columns
    return Source(source, columns, default, "question", key, "--column")


def _embedding(given: TopicsConfig) -> Embedding:
    if given.embedding == "random":
        return RandomEmbedding(given.seed)
    import torch

    model = given.of_model(on_gpu=torch.cuda.is_available())
    return ModelEmbedding(model, given.pooling, given.layer)


def _counts(source: Source, topics: list[Topic], rejected: dict[str, int]) -> dict[str, Any]:
    return {
        "source": str(source),
        "sha256": source.digest(),
        "topics": len(topics),
        "questions": sum(len(topic.questions) for topic in topics),
        "rejected": rejected,
    }


def _summary(
    given: TopicsConfig,
    embedding: Embedding,
    distances: np.ndarray,
    picked: list[dict[str, Any]],
    targets: list[Topic],
) -> dict[str, Any]:
    near = {topic["nearest"] for topic in picked}
    return {
        "embedding": embedding.describe() | {"text": given.text},
        "budget": given.budget,
        "diversity": given.diversity,
        "questions": sum(topic["questions"] for topic in picked),
        "distance": {
            "chosen": _spread(np.array([topic["distance"] for topic in picked])),
            "pool": _spread(distances),
        },
        "targets_nearest_to_none": [t.name for t in targets if t.name not in near],
        "chosen": picked,
    }


def _spread(distances: np.ndarray) -> dict[str, float]:
    return {
        "least": float(distances.min()),
        "median": float(np.median(distances)),
        "most": float(distances.max()),
    }


def _write(
    out: str, chosen: list[Topic], picked: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    rows = (
        as_input(row) | {key: topic_row[key] for key in ("rank", "distance", "nearest")}
        for topic, topic_row in zip(chosen, picked, strict=True)
        for row in topic.questions
    )
    parent, _, name = out.rpartition("/")
    folder = Folder(parent or ("/" if out.startswith("/") else "."))
    folder.write_jsonl(name, rows)
    folder.write_json(name.removesuffix(".jsonl") + ".summary.json", summary)


def _told(summary: dict[str, Any], out: str) -> str:
    chosen, pool = summary["distance"]["chosen"], summary["distance"]["pool"]
    return (
        f"{len(summary['chosen'])} of {summary['pool']['topics']} topics with "
        f"{summary['questions']} questions: {out}\n"
        f"distance to the nearest target: median {chosen['median']:.4f}, at most "
        f"{chosen['most']:.4f}; of the pool: median {pool['median']:.4f}, at most "
        f"{pool['most']:.4f}"
    )
