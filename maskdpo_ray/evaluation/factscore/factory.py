"""Builder of the ``factscore`` stage's processor, called inside its actors."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from maskdpo_ray.config import FactScoreConfig
from maskdpo_ray.engine.chat_of import chat_model
from maskdpo_ray.errors import UserError
from maskdpo_ray.model_files import local_file
from maskdpo_ray.storage import Folder

if TYPE_CHECKING:
    from maskdpo_ray.evaluation.factscore.examiner import FactExaminer


def build_factscore(settings: FactScoreConfig, scratch: Folder) -> "FactExaminer":
    """The examiner that the configuration describes.

    Args:
        scratch: keeps what the models reply until the stage is complete.

    Raises:
        UserError: the engine does not start, an endpoint will not do, the wording is wrong,
            there is no knowledge database, or ``scratch`` cannot be used.
    """
    from maskdpo_ray.evaluation.factscore.examiner import FactExaminer
    from maskdpo_ray.evaluation.factscore.facts import FactWriter
    from maskdpo_ray.evaluation.factscore.replies import Remembering, Replies
    from maskdpo_ray.evaluation.factscore.verification import Verifier
    from maskdpo_ray.evaluation.factscore.wording import read_wording
    from maskdpo_ray.knowledge.database import Knowledge
    from maskdpo_ray.knowledge.finder import Finder
    from maskdpo_ray.knowledge.retrieval import indexer

    if find_spec("rank_bm25") is None:  # of the demonstrations too
        raise UserError("FActScore needs rank-bm25: pip install 'maskdpo-ray[factscore]'")
    wording = read_wording(settings.templates)  # first: an engine takes long to start
    knowledge = Knowledge(local_file(settings.knowledge))
    index = indexer(settings.retrieval, settings.embedding, settings.embedding_revision)
    replies = Replies(scratch)
    shown = bool(settings.demonstrations)  # as earlier turns
    models = {
        key: Remembering(chat_model(of, turns=shown and key == "writer"), key, replies)
        for key, of in settings.models.items()
    }
    return FactExaminer(
        FactWriter(models["writer"], wording, settings.demonstrations),
        Verifier(models.get("verifier", models["writer"]), wording),
        Finder(knowledge, index, settings.k),
        settings.decodings,
    )
