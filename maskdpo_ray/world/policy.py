"""The tiny policy of the closed world: its tokenizer, its pre-training, its Hugging Face folder.

A Llama of about one million parameters that reads the noisy encyclopedia as question and answer.
What it reads is rendered by the same chat template that later prompts are, so it is its own
instruction-tuned model and samples from exactly what it was trained on.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from maskdpo_ray.world.facts import QUESTION_KINDS, Person, write_answer

BOS, PAD, END, USER, ASSISTANT = "<|bos|>", "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
NOT_A_TARGET = -100  # label that PyTorch's cross-entropy leaves out


@dataclass(frozen=True)
class PolicySettings:
    """Size and pre-training of the policy. The defaults take about two minutes on two cores."""

    vocabulary: int = 900
    hidden: int = 128
    layers: int = 4
    heads: int = 4  # hidden / heads must be a head size of vLLM's CPU attention: 32, 64, ...
    context: int = 512
    steps: int = 500
    batch: int = 64
    micro_batch: int = 16
    learning_rate: float = 3e-3
    warmup_steps: int = 30


def train_tokenizer(texts: Iterator[str] | Sequence[str], settings: PolicySettings):
    """A byte-level BPE tokenizer with the chat template; it can spell any text.

    Returns:
        ``PreTrainedTokenizerFast``; its ``eos_token`` is the end of a turn.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[PAD, BOS, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=settings.context,
        clean_up_tokenization_spaces=False,
    )


def encyclopedia(people: list[Person], seed: int) -> Iterator[tuple[str, str]]:
    """Questions and their noisy answers without end; famous people are written about more."""
    random = Random(f"encyclopedia {seed}")
    fame = [person.fame for person in people]
    while True:
        person = random.choices(people, fame)[0]
        question = random.choice(QUESTION_KINDS)
        answer = write_answer(person, people, question, random)
        yield question.wording.format(name=person.name), answer


def encode(tokenizer, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, as it will be sampled from, and of the answer with its end."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    response = tokenizer.encode(answer, add_special_tokens=False)
    return prompt, [*response, tokenizer.eos_token_id]


def collate(examples: list[tuple[list[int], list[int]]], pad_id: int):
    """Right-padded ids and labels, both ``[batch, time]``; the loss is on the answers alone."""
    import torch

    width = max(len(prompt) + len(response) for prompt, response in examples)
    ids = torch.full((len(examples), width), pad_id)
    labels = torch.full((len(examples), width), NOT_A_TARGET)
    for row, (prompt, response) in enumerate(examples):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return ids, labels


def set_gradient(
    model, batch: list[tuple[list[int], list[int]]], micro_batch: int, map=map
) -> float:
    """Set the gradient of the mean token loss of a batch, answers of like length together.

    Args:
        map: over the micro-batches; one that works on several at once gives the same gradient.

    Returns:
        The loss, in nats per token.
    """
    import torch
    from torch.nn.functional import cross_entropy

    tokens = sum(len(response) for _, response in batch)
    # The longest first: what is left at the end, when others have nothing to do, is short.
    by_length = sorted(batch, key=lambda pair: -len(pair[0]) - len(pair[1]))
    parameters = list(model.parameters())

    def part(start: int):
        ids, labels = collate(by_length[start : start + micro_batch], model.config.pad_token_id)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        target = labels[:, 1:]
        at = target != NOT_A_TARGET
        loss = cross_entropy(model.lm_head(hidden[at]), target[at], reduction="sum") / tokens
        return loss.item(), torch.autograd.grad(loss, parameters)

    losses, gradients = zip(*map(part, range(0, len(batch), micro_batch)), strict=True)
    for parameter, parts in zip(parameters, zip(*gradients, strict=True), strict=True):
        parameter.grad = sum(parts[1:], start=parts[0])
    return sum(losses)


def pretrain(
    tokenizer,
    pages: Iterator[tuple[str, str]],
    settings: PolicySettings,
    seed: int,
    progress: Callable[[str], None],
):
    """A fresh Llama trained on ``settings.steps`` batches of pages.

    The same seed, settings and machine give the same weights. Each core has a micro-batch of its
    own: matrices this small do not keep two cores busy together, and sums of PyTorch's would
    depend on how many share one.

    Args:
        pages: question and answer, at least ``steps * batch`` of them.
        progress: called with one line per report.

    Returns:
        ``LlamaForCausalLM`` in float32, in evaluation mode.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=settings.hidden,
                intermediate_size=3 * settings.hidden,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                num_key_value_heads=settings.heads,
                max_position_embeddings=settings.context,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    warmup = torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=1 / settings.warmup_steps, total_iters=settings.warmup_steps
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=max(1, settings.steps - settings.warmup_steps)
    )
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer, [warmup, cosine], milestones=[settings.warmup_steps]
    )
    model.train()
    started = reported = time.monotonic()
    with one_thread_each() as workers:
        for step in range(1, settings.steps + 1):
            batch = [encode(tokenizer, *next(pages)) for _ in range(settings.batch)]
            loss = set_gradient(model, batch, settings.micro_batch, workers.map)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            now = time.monotonic()
            if step in (1, settings.steps) or now - reported >= 5:
                reported = now
                left = (now - started) / step * (settings.steps - step)
                progress(
                    f"pre-training step {step}/{settings.steps}  loss {loss:.3f}  {left:.0f} s left"
                )
    return model.eval()


@contextmanager
def one_thread_each() -> Iterator[Executor]:
    """Threads, one a core, in each of which PyTorch works alone."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def save_policy(model, tokenizer, folder: Path, context: int) -> None:
    """Write the Hugging Face folder: weights (safetensors), tokenizer, generation defaults."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_length=context,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
