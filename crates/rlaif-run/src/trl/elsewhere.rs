//! Fields without a key: those of logging, uploads, data loaders and launchers.

use super::fields::Fields;

/// The effect of a field that has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// None on the numbers of the run.
    None,
    /// The run differs from TRL's if the field has another value than TRL's default.
    IfChanged,
}

use Effect::{IfChanged, None as Unchanged};

const LOGS: &str = "every step goes to metrics.jsonl, log.txt and TensorBoard";
const HUB: &str = "nothing is uploaded; the result is a folder in Hugging Face's layout";
const LOADER: &str = "rows are read and encoded once, before the run";
const SPEED: &str = "speed only: docs/performance.md";
const RANKS: &str = "several processes: docs/scale.md";
const EVALUATION: &str =
    "an evaluation reads the held-out rows once, at the steps of `train.eval_every`";
const CHECKPOINTS: &str =
    "a checkpoint has all state, and the run folder keeps `train.keep` of them";
const VLLM: &str = "the responses are sampled in the same process, or by the servers of `[vllm]` (docs/servers.md)";
const PARTS: &str = "the result does not depend on the parts of a batch";

/// The fields, their effect, and the reason or the place of their counterpart.
const ROWS: &[(&[&str], Effect, &str)] = &[
    (
        &[
            "logging_strategy",
            "logging_steps",
            "logging_first_step",
            "log_on_each_node",
            "logging_nan_inf_filter",
            "include_num_input_tokens_seen",
            "log_level",
            "log_level_replica",
            "disable_tqdm",
            "report_to",
            "run_name",
            "project",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
            "log_completions",
            "log_multimodal",
            "num_completions_to_print",
            "log_unique_prompts",
            "log_completions_hub_repo",
            "log_with",
            "task_name",
            "tracker_kwargs",
            "tracker_project_name",
            "exp_name",
            "skip_memory_metrics",
            "debug",
            "project_kwargs",
        ],
        Unchanged,
        LOGS,
    ),
    (
        &[
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
            "push_to_hub_if_best_kwargs",
        ],
        Unchanged,
        HUB,
    ),
    (
        &[
            "dataloader_num_workers",
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
            "dataset_num_proc",
            "dataset_streaming",
            "remove_unused_columns",
            "label_names",
            "length_column_name",
            "dataset_kwargs",
            "dataset_config",
            "dataset_train_split",
        ],
        Unchanged,
        LOADER,
    ),
    (&["dataset_test_split"], Unchanged, "`data.held_out`, a file"),
    (
        &[
            "tf32",
            "activation_checkpointing",
            "activation_checkpointing_kwargs",
            "gradient_checkpointing_kwargs",
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "use_liger_kernel",
            "liger_kernel_config",
            "use_cache",
            "torch_empty_cache_steps",
            "attn_implementation",
            "activation_offloading",
            "optimize_cuda_cache",
            "optimize_device_cache",
            "cast_lm_head_to_fp32",
            "cache_implementation",
            "use_transformers_paged",
            "use_transformers_continuous_batching",
            "transformers_continuous_batching_config",
            "pad_to_multiple_of",
            "bnb_4bit_quant_storage",
            "model_init_kwargs",
            "packing_strategy",
            "eval_packing",
            "bf16_full_eval",
            "fp16_full_eval",
        ],
        Unchanged,
        SPEED,
    ),
    (
        &[
            "accelerator_config",
            "parallelism_config",
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ddp_backend",
            "ddp_timeout",
            "fsdp",
            "fsdp_config",
            "deepspeed",
            "local_rank",
            "ignore_bias_buffers",
            "ds3_gather_for_generation",
            "world_size",
            "accelerator_kwargs",
            "average_tokens_across_devices",
        ],
        Unchanged,
        RANKS,
    ),
    (
        &[
            "eval_delay",
            "per_device_eval_batch_size",
            "prediction_loss_only",
            "eval_on_start",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "include_for_metrics",
            "batch_eval_metrics",
            "num_generations_eval",
            "eval_strategy",
            "eval_steps",
            "do_train",
            "do_eval",
            "do_predict",
        ],
        Unchanged,
        EVALUATION,
    ),
    (
        &[
            "save_only_model",
            "save_on_each_node",
            "enable_jit_checkpoint",
            "ignore_data_skip",
            "restore_callback_states_from_checkpoint",
            "load_best_model_at_end",
        ],
        Unchanged,
        CHECKPOINTS,
    ),
    (
        &[
            "vllm_mode",
            "vllm_model_impl",
            "vllm_enable_sleep_mode",
            "vllm_server_base_url",
            "vllm_server_host",
            "vllm_server_port",
            "vllm_server_timeout",
            "vllm_group_port",
            "vllm_gpu_memory_utilization",
            "vllm_max_model_length",
            "vllm_tensor_parallel_size",
            "vllm_importance_sampling_correction",
            "vllm_importance_sampling_mode",
            "vllm_importance_sampling_clip_max",
            "vllm_importance_sampling_clip_min",
            "vllm_importance_sampling_cap",
        ],
        Unchanged,
        VLLM,
    ),
    (&["use_vllm"], IfChanged, VLLM),
    (&["vllm_structured_outputs_regex"], IfChanged, "responses follow no grammar"),
    (&["output_dir"], Unchanged, "the command's `--out`"),
    (&["resume_from_checkpoint"], Unchanged, "the command's `--resume`"),
    (&["full_determinism"], Unchanged, "a run on the CPU is always deterministic"),
    (&["data_seed"], IfChanged, "the order of rows follows `seed`"),
    (&["shuffle_dataset"], Unchanged, "the rows have a new order in each epoch"),
    (
        &["train_sampling_strategy"],
        IfChanged,
        "the rows have a random order; `learn.batching = \"length\"` groups passes by length",
    ),
    (
        &["dataloader_drop_last"],
        IfChanged,
        "the last rows of an epoch and the first of the next share a step",
    ),
    (
        &["auto_find_batch_size"],
        IfChanged,
        "the batch size is fixed; a run that does not fit is refused at the start",
    ),
    (&["lr_scheduler_kwargs"], IfChanged, "schedules have no further parameters"),
    (&["optim_args", "optim_target_modules"], IfChanged, "always AdamW on all trained weights"),
    (&["label_smoothing_factor"], IfChanged, "the likelihood is not smoothed"),
    (&["neftune_noise_alpha"], IfChanged, "embeddings get no noise"),
    (
        &["metric_for_best_model", "greater_is_better"],
        IfChanged,
        "the best model has the lowest loss, or the highest accuracy of a classifier or reward model",
    ),
    (&["lora_target_parameters"], IfChanged, "adapters are on layers, not on single parameters"),
    (&["lora_task_type"], Unchanged, "it follows from the model"),
    (
        &["chat_template_path", "eos_token", "pad_token"],
        IfChanged,
        "the tokenizer's own; change it in the model's folder",
    ),
    (&["max_tool_calling_iterations"], IfChanged, "a response has one turn"),
    (
        &[
            "use_adaptive_entropy",
            "entropy_coef_min",
            "entropy_coef_max",
            "entropy_coef_delta",
            "entropy_target",
        ],
        IfChanged,
        "the loss has no entropy",
    ),
    (
        &[
            "forward_batch_size",
            "backward_batch_size",
            "global_backward_batch_size",
            "global_batch_size",
        ],
        Unchanged,
        PARTS,
    ),
    (&["is_encoder_decoder", "is_peft_model"], Unchanged, "it follows from the model"),
    (&["compare_steps"], Unchanged, "TRL does not read it"),
];

/// Records the counterparts of the fields that have no key.
pub(super) fn settle(fields: &mut Fields) {
    let unsettled = fields.unsettled();
    for (names, effect, reason) in ROWS {
        for name in names.iter().filter(|name| unsettled.contains(*name)) {
            if *effect == IfChanged && fields.is_changed(name) {
                fields.differs(name, *reason);
            } else {
                fields.elsewhere(name, reason);
            }
        }
    }
}
