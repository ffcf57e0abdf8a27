"""vLLM's engine inside this process, driven by one thread, awaited by any number of coroutines.

Why not ``LLM`` or ``AsyncLLM``: the first answers a batch when its slowest request is done, so
the engine runs empty between batches; the second always starts a second process, which takes
9 s more and outlives a killed actor. Here requests of all callers meet in one inbox, join the
running batch at the next step, and resolve one by one: one process, no orphans, no idle steps.
"""

import asyncio
import dataclasses
import itertools
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from maskdpo_ray.engine.arguments import (
    check_engine_args,
    complete_engine_args,
    refuse_decided_elsewhere,
)
from maskdpo_ray.engine.chat import open_tokenizer
from maskdpo_ray.engine.logs import keep, log_to_file, native_output_to, tail
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.engine.template import NO_KWARGS, TemplateKwargs
from maskdpo_ray.errors import UserError, first_line
from maskdpo_ray.imports import lasting_imports
from maskdpo_ray.model_files import local_folder

if TYPE_CHECKING:
    from vllm import CompletionOutput, RequestOutput, SamplingParams


REASON_LENGTH = 500  # characters


@dataclass
class EngineStats:
    """What the engine has done since it started."""

    steps: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt tokens, found in the prefix cache
    generated_tokens: int = 0
    busy_seconds: float = 0.0  # spent in steps

    @property
    def mean_running(self) -> float:
        """Sequences advanced per step; steps that wait for a grammar advance none."""
        return self.generated_tokens / self.steps if self.steps else 0.0


@dataclass
class _Request:
    prompt_token_ids: list[int]
    params: "SamplingParams"
    future: Future


last_words: list[Callable[[str], None]] = []  # called with the reason before ``exit_process`` ends


def exit_process(reason: str) -> NoReturn:
    """End this process at once, without an answer to those who wait for one.

    Ray Data would send work to a live actor with a dead engine for ever, and an exception from
    the actor would fail the job; a dead actor is replaced, and its blocks are worked on again.
    """
    try:
        print(reason, file=sys.stderr, flush=True)
        for tell in last_words:
            tell(reason)
    finally:
        os._exit(1)


class Engine:
    """A vLLM engine in this process.

    Args:
        model: local folder or hub id.
        dtype: arithmetic: "float32", "bfloat16" or "float16".
        seed: of what is sampled without a seed of its own (nothing here is).
        revision: of weights, configuration and tokenizer on the hub.
        chat_template: file with a Jinja template that replaces the tokenizer's own.
        template_kwargs, system, turns: what prompts ask of it (``template.check_template``).
        engine_args: any argument of vLLM's engine; on CPU ``arguments.CPU_DEFAULTS`` apply below
            them. The engine takes ``OMP_NUM_THREADS`` threads on CPU, one where it is not set:
            several engines on one machine slow each other down otherwise.

    Raises:
        UserError: an unknown argument, a model that cannot be loaded, not enough memory.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "bfloat16",
        seed: int = 0,
        trust_remote_code: bool = False,
        revision: str | None = None,
        chat_template: str | None = None,
        template_kwargs: TemplateKwargs = NO_KWARGS,
        system: bool = False,
        turns: bool = False,
        **engine_args: Any,
    ) -> None:
        self._log = log_to_file()
        self.stats = EngineStats()
        self._inbox: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._names = map(str, itertools.count())
        # In this process; read when the engine is made.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # "auto" binds the workers of every multi-process CPU engine to the same first cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        with native_output_to(self._log), lasting_imports():
            from vllm import EngineArgs
            from vllm.platforms import current_platform

        check_engine_args(engine_args, [field.name for field in dataclasses.fields(EngineArgs)])
        args = complete_engine_args(engine_args, cpu=current_platform.is_cpu())
        self.tokenizer = open_tokenizer(
            args.get("tokenizer") or model,
            args.get("tokenizer_revision") or revision,
            chat_template,
            trust_remote_code,
            template_kwargs,
            system=system,
            turns=turns,
        )
        args |= {"model": model, "dtype": dtype, "seed": seed, "revision": revision}
        args |= {"trust_remote_code": trust_remote_code, "disable_log_stats": True}
        started: Future = Future()
        # Loading and stepping share a thread: CUDA's current device, OpenMP's team and
        # PyTorch's inference mode belong to a thread.
        self._thread = threading.Thread(
            target=self._drive, args=(args, started), name="engine", daemon=True
        )
        self._thread.start()
        self.max_model_len: int = self._await_start(started, model)

    async def generate(
        self, prompt_token_ids: list[int], params: "SamplingParams"
    ) -> "list[CompletionOutput]":
        """Complete one prompt; ``params.n`` outputs, in order of their index.

        Output ``k`` is sampled with seed ``params.seed + k``. ``token_ids`` are as sampled, the
        end-of-turn token included.

        Raises:
            RequestRefused: too long, or not possible with these parameters.
        """
        return (await self.request(prompt_token_ids, params)).outputs

    async def request(
        self, prompt_token_ids: list[int], params: "SamplingParams"
    ) -> "RequestOutput":
        """``generate``, with all that vLLM tells of a request: ``prompt_logprobs`` too, where
        ``params`` ask for them."""
        if not self._thread.is_alive():
            raise RuntimeError("this engine is closed")
        from vllm.sampling_params import RequestOutputKind

        params.output_kind = RequestOutputKind.FINAL_ONLY  # of a copy vLLM makes its own use
        request = _Request(prompt_token_ids, params, Future())
        self._inbox.put(request)
        return await asyncio.wrap_future(request.future)

    def close(self) -> None:
        """Finish what is running, then free the model.

        vLLM's process groups belong to the process and go with it: at most one engine lives in a
        process, and another one may start after this.
        """
        self._inbox.put(None)
        self._thread.join()

    def _await_start(self, started: Future, model: str) -> int:
        try:
            return started.result()
        # Whatever stops a model from loading (its files, its architecture, memory, an engine
        # argument) is for a person to mend, and vLLM raises nearly any type for it.
        except Exception as error:
            keep()
            print(tail(self._log), file=sys.stderr, flush=True)
            raise UserError(
                f"the engine for {model!r} did not start: {_reason(error)} (log: {self._log})"
            ) from error

    def _drive(self, args: dict[str, Any], started: Future) -> None:
        try:
            engine = self._start(args)
        except Exception as error:  # to the thread that waits for the start
            started.set_exception(error)
            return
        started.set_result(engine.model_config.max_model_len)
        try:
            while self._take(engine):
                self._step(engine)
        except BaseException:
            exit_process(f"the engine died (log: {self._log})\n{traceback.format_exc()}")
        engine.engine_core.shutdown()

    def _start(self, args: dict[str, Any]) -> Any:
        import torch
        from vllm import EngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        threads = os.environ.get("OMP_NUM_THREADS", "1").partition(",")[0]
        torch.set_num_threads(int(threads or 1))
        # The CPU worker replaces this function for the whole process.
        set_num_threads = torch.set_num_threads
        try:
            with native_output_to(self._log):
                # LLM_CLASS: the batch sizes that vLLM thinks best for throughput.
                engine = LLMEngine.from_engine_args(EngineArgs(**args), UsageContext.LLM_CLASS)
        finally:
            torch.set_num_threads = set_num_threads
        if current_platform.is_cpu() and (undo := getattr(engine.engine_core, "_finalizer", None)):
            # A process that ends gives all back by itself; taking the engine apart first is a
            # second and more of garbage collection. `close` still does.
            undo.atexit = False
        return engine

    def _take(self, engine: Any) -> bool:
        """Move the inbox into the engine; wait where there is nothing to do. False: closed."""
        while True:
            try:
                request = self._inbox.get(block=not self._running)
            except queue.Empty:
                return True
            if request is None:
                while self._running:
                    self._step(engine)
                return False
            self._add(engine, request)

    def _add(self, engine: Any, request: _Request) -> None:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input

        if not request.future.set_running_or_notify_cancel():
            return
        name = next(self._names)
        try:
            engine.add_request(name, tokens_input(request.prompt_token_ids), request.params)
        except (VLLMClientError, ValueError) as error:
            request.future.set_exception(RequestRefused(first_line(error)))
        else:
            self._running[name] = request

    def _step(self, engine: Any) -> None:
        began = perf_counter()
        outputs = engine.step()
        self.stats.busy_seconds += perf_counter() - began
        self.stats.steps += 1
        for output in outputs:
            if output.finished:
                self.stats.cached_tokens += output.num_cached_tokens or 0
                self._resolve(self._running.pop(output.request_id), output)

    def _resolve(self, request: _Request, output: "RequestOutput") -> None:
        outputs = output.outputs
        self.stats.requests += 1
        self.stats.prompt_tokens += len(request.prompt_token_ids)
        self.stats.generated_tokens += sum(len(output.token_ids) for output in outputs)
        broken = [o.finish_reason for o in outputs if o.finish_reason in ("abort", "error")]
        if broken:
            request.future.set_exception(RequestRefused(f"the engine ended it: {broken[0]}"))
        else:
            request.future.set_result(output)


def start_engine(model: str, engine_args: Mapping[str, Any], **settings: Any) -> Engine:
    """An engine with the arguments of a configuration section and the settings beside them."""
    refuse_decided_elsewhere(engine_args)
    return Engine(local_folder(model), **settings, **engine_args)


def _reason(error: BaseException) -> str:
    """The first cause of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = " ".join(str(error).split()).partition(" For further information visit")[0]
    return f"{type(error).__name__}: {message}"[:REASON_LENGTH]
