"""What users of TRL, Transformers and peft know under other names."""

FROM_TRL: tuple[tuple[str, str, str], ...] = (
    ("model_name_or_path", "model.path", ""),
    ("model_revision", "model.revision", ""),
    ("trust_remote_code", "model.*", ""),
    ("dtype, torch_dtype, bf16, fp16", "model.dtype", "bfloat16 or float32"),
    ("attn_implementation", "training.attention", ""),
    ("dataset_name", "data.train", ""),
    (
        "max_length, max_prompt_length, max_completion_length",
        "preference.max_length",
        "prompt and response together",
    ),
    ("output_dir", "run_dir", "at the top level"),
    ("seed, data_seed", "seed", "at the top level"),
    (
        "per_device_train_batch_size, gradient_accumulation_steps",
        "training.batch_size",
        "all pairs of a step, over workers and passes; training.micro_batch_tokens bounds a pass",
    ),
    ("per_device_eval_batch_size", "training.micro_batch_tokens", "tokens of a pass, not pairs"),
    ("num_train_epochs", "training.epochs", ""),
    (
        "loss_type",
        "training.loss",
        "one name; sigmoid_norm is sigmoid with training.ratios: mean, sft beside another is "
        "training.nll_weight",
    ),
    ("loss_weights", "training.nll_weight", "the weight of sft"),
    ("rpo_alpha", "training.nll_weight", "of a mean per pair, not over the tokens of a pass"),
    ("cpo_alpha", "training.nll_weight", ""),
    ("simpo_gamma", "training.margin", "with training.reference_free and training.ratios: mean"),
    ("gamma_beta_ratio", "training.margin", "times β"),
    (
        "undesirable_weight",
        "training.incorrect_weight",
        "beside a desirable_weight of 1, with training.loss: fkto",
    ),
    (
        "router_aux_loss_coef, aux_loss_coef, output_router_logits",
        "training.router_aux_weight",
        "a number, or model for what the model's own configuration says",
    ),
    ("warmup_steps", "training.warmup_ratio", "a share of the steps"),
    (
        "lr_scheduler_type",
        "training.min_lr_ratio",
        "where the cosine ends, as a share of the highest rate; 1 keeps the rate constant",
    ),
    ("adam_beta1, adam_beta2", "training.betas", "both in a list"),
    ("adam_epsilon", "training.adam_eps", ""),
    ("save_steps", "training.checkpoint_every", ""),
    ("save_total_limit", "training.keep_checkpoints", ""),
    ("eval_strategy", "training.holdout", "the share of the topics to examine"),
    ("eval_steps", "training.eval_every", "with training.holdout"),
    ("report_to", "tracking.*", ""),
    ("padding_free", "training.packing", ""),
    ("use_peft, peft_config", "training.lora", "{} for its defaults"),
    ("r, lora_r", "training.lora.rank", ""),
    ("lora_alpha", "training.lora.alpha", ""),
    ("target_modules, lora_target_modules", "training.lora.target_modules", ""),
    ("lora_dropout", "training.lora.dropout", "0: the policy would differ from its reference"),
    (
        "beta, label_smoothing, ld_alpha, reference_free, learning_rate, weight_decay, "
        "max_grad_norm, max_steps, warmup_ratio, gradient_checkpointing, use_liger_kernel, "
        "load_in_4bit, deepspeed",
        "training.*",
        "",
    ),
)
"""Their names, our key (`*` is their name), and what differs. docs/training.md shows it."""

OURS: dict[str, tuple[str, str]] = {
    name: (key.replace("*", name), note)
    for names, key, note in FROM_TRL
    for name in names.split(", ")
}
"""Our key for each of their names, and what differs."""
