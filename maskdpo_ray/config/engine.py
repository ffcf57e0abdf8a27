"""Arguments of vLLM's engine: any of them, refused where another setting decides the same."""

from typing import Annotated, Any

from pydantic import AfterValidator

from maskdpo_ray.config.section import Keys, Kind
from maskdpo_ray.engine.arguments import refuse_decided_elsewhere

# How an engine finds room and speed: a run may go on with others, as after a start that ran out of
# memory. The tokens are the same but for rounding (docs/design.md, contract 5).
HOW = """
    gpu_memory_utilization kv_cache_memory_bytes cpu_offload_gb cpu_offload_params offload_backend
    offload_group_size offload_num_in_group offload_prefetch_step offload_params kv_offloading_size
    kv_offloading_backend num_gpu_blocks_override block_size enable_prefix_caching
    enable_chunked_prefill max_num_seqs max_num_batched_tokens max_num_active_seqs
    max_num_queued_reqs max_num_queued_tokens async_scheduling stream_interval scheduling_policy
    tensor_parallel_size pipeline_parallel_size distributed_executor_backend
    max_parallel_loading_workers disable_custom_all_reduce enable_expert_parallel
    distributed_timeout_seconds cpu_distributed_timeout_seconds ray_workers_use_nsight
    enforce_eager cudagraph_capture_sizes max_cudagraph_capture_size compilation_config
    optimization_level performance_mode use_tqdm_on_load safetensors_load_strategy
    safetensors_prefetch_num_threads safetensors_prefetch_block_size enable_sleep_mode
    aggregate_engine_logging enable_log_requests enable_logging_iteration_details logging_config
    log_level log_config_file otlp_traces_endpoint collect_detailed_traces profiler_config
    kv_cache_metrics kv_cache_metrics_sample cudagraph_metrics enable_mfu_metrics
    enable_layerwise_nvtx_tracing per_request_spec_decode_metrics shutdown_timeout
    custom_histogram_buckets show_hidden_metrics_for_version jit_monitor_mode jit_monitor_verbose
""".split()
WHERE = """
    download_dir master_addr master_port nnodes node_rank numa_bind numa_bind_nodes numa_bind_cpus
    device_ids pt_load_map_location served_model_name
""".split()
SECRET = ["hf_token"]


def _taken(given: dict[str, Any]) -> dict[str, Any]:
    refuse_decided_elsewhere(given)
    return given


Engine = Annotated[
    dict[str, Any],
    AfterValidator(_taken),
    Keys(
        dict.fromkeys(HOW, Kind.HOW)
        | dict.fromkeys(WHERE, Kind.WHERE)
        | dict.fromkeys(SECRET, Kind.SECRET)
    ),
]
