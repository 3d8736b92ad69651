/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of Accelerate's options (1.15) and their variables. Defaults stand where `accelerate
 * launch` sets the variable also when the option was not given, because Accelerator() has another
 * default for a missing variable than the command has. Neighbours: options.c parses by it, spec.c
 * puts the variables into the job.
 */
#include "client/accelctl/accelerate.h"

#include <string.h>

enum group { ALONE, DEEPSPEED, FSDP, MEGATRON, PARALLELISM, FP8, GROUP_COUNT };
enum kind { SWITCH, VALUE, LOWER, UPPER, RANK, WIRING, LOGS, TPU, CLOUD, OTHER };

struct accelerate_row {
    const char *name;
    enum group group;
    enum kind kind;        /* SWITCH, VALUE (LOWER, UPPER: its letters changed), else refused */
    const char *variable;  /* of a SWITCH: with its value; NULL: the name in upper case */
    const char *otherwise; /* value when it was not given but the group's switch was; NULL: none */
};

#define ACC  "ACCELERATE_"
#define DS   "ACCELERATE_DEEPSPEED_"
#define FS   FSDP, LOWER, NULL
#define MEGA MEGATRON, VALUE, NULL
#define PAR  PARALLELISM, VALUE, NULL

static const struct accelerate_row rows[] = {
    {"num-cpu-threads-per-process", ALONE, VALUE, "OMP_NUM_THREADS", NULL},
    {"enable-cpu-affinity", ALONE, SWITCH, ACC "CPU_AFFINITY=1", NULL},
    {"debug", ALONE, SWITCH, ACC "DEBUG_MODE=true", NULL},
    {"gradient-accumulation-steps", ALONE, VALUE, ACC "GRADIENT_ACCUMULATION_STEPS", NULL},
    {"gradient-clipping", ALONE, VALUE, ACC "GRADIENT_CLIPPING", NULL},
    {"dynamo-backend", ALONE, UPPER, ACC "DYNAMO_BACKEND", NULL},
    {"dynamo-mode", ALONE, VALUE, ACC "DYNAMO_MODE", NULL},
    {"dynamo-use-fullgraph", ALONE, SWITCH, ACC "DYNAMO_USE_FULLGRAPH=True", NULL},
    {"dynamo-use-dynamic", ALONE, SWITCH, ACC "DYNAMO_USE_DYNAMIC=True", NULL},
    {"dynamo-use-regional-compilation", ALONE, SWITCH, ACC "DYNAMO_USE_REGIONAL_COMPILATION=True",
     NULL},

    {"use-deepspeed", DEEPSPEED, SWITCH, ACC "USE_DEEPSPEED=true", NULL},
    {"deepspeed-config-file", DEEPSPEED, VALUE, DS "CONFIG_FILE", NULL},
    {"zero-stage", DEEPSPEED, VALUE, DS "ZERO_STAGE", NULL},
    {"offload-optimizer-device", DEEPSPEED, LOWER, DS "OFFLOAD_OPTIMIZER_DEVICE", NULL},
    {"offload-param-device", DEEPSPEED, LOWER, DS "OFFLOAD_PARAM_DEVICE", NULL},
    {"offload-optimizer-nvme-path", DEEPSPEED, VALUE, DS "OFFLOAD_OPTIMIZER_NVME_PATH", NULL},
    {"offload-param-nvme-path", DEEPSPEED, VALUE, DS "OFFLOAD_PARAM_NVME_PATH", NULL},
    {"zero3-init-flag", DEEPSPEED, LOWER, DS "ZERO3_INIT", NULL},
    {"zero3-save-16bit-model", DEEPSPEED, LOWER, DS "ZERO3_SAVE_16BIT_MODEL", NULL},
    {"deepspeed-moe-layer-cls-names", DEEPSPEED, VALUE, DS "MOE_LAYER_CLS_NAMES", NULL},

    {"use-fsdp", FSDP, SWITCH, ACC "USE_FSDP=true", NULL},
    {"fsdp-version", FSDP, VALUE, NULL, "1"},
    {"fsdp-sharding-strategy", FSDP, VALUE, NULL, "FULL_SHARD"},
    {"fsdp-reshard-after-forward", FS, "true"},
    {"fsdp-offload-params", FS, "false"},
    {"fsdp-min-num-params", FSDP, VALUE, NULL, "100000000"},
    {"fsdp-auto-wrap-policy", FSDP, VALUE, NULL, NULL},
    {"fsdp-transformer-layer-cls-to-wrap", FSDP, VALUE, "FSDP_TRANSFORMER_CLS_TO_WRAP", NULL},
    {"fsdp-backward-prefetch", FSDP, VALUE, NULL, NULL},
    {"fsdp-state-dict-type", FSDP, VALUE, NULL, NULL},
    {"fsdp-forward-prefetch", FS, "false"},
    {"fsdp-use-orig-params", FS, "true"},
    {"fsdp-cpu-ram-efficient-loading", FS, "true"},
    {"fsdp-sync-module-states", FS, "true"},
    {"fsdp-activation-checkpointing", FS, "false"},
    {"fsdp-activation-checkpointing-offload", FS, "false"},
    {"fsdp-ignored-modules", FSDP, VALUE, NULL, NULL},

    {"use-megatron-lm", MEGATRON, SWITCH, ACC "USE_MEGATRON_LM=true", NULL},
    {"megatron-lm-tp-degree", MEGA, "1"},
    {"megatron-lm-pp-degree", MEGA, "1"},
    {"megatron-lm-gradient-clipping", MEGA, "1.0"},
    {"megatron-lm-use-custom-fsdp", MEGA, "False"},
    {"megatron-lm-no-load-optim", MEGA, "False"},
    {"megatron-lm-eod-mask-loss", MEGA, "False"},
    {"megatron-lm-overlap-cpu-optimizer-d2h-h2d", MEGA, "False"},
    {"megatron-lm-no-save-optim", MEGA, "False"},
    {"megatron-lm-optimizer-cpu-offload", MEGA, "False"},
    {"megatron-lm-use-precision-aware-optimizer", MEGA, "False"},
    {"megatron-lm-decoder-last-pipeline-num-layers", MEGA, NULL},
    {"megatron-lm-num-micro-batches", MEGA, NULL},
    {"megatron-lm-sequence-parallelism", MEGA, NULL},
    {"megatron-lm-recompute-activations", MEGA, NULL},
    {"megatron-lm-use-distributed-optimizer", MEGA, NULL},
    {"megatron-lm-recompute-granularity", MEGA, NULL},
    {"megatron-lm-recompute-method", MEGA, NULL},
    {"megatron-lm-recompute-num-layers", MEGA, NULL},
    {"megatron-lm-attention-backend", MEGA, NULL},
    {"megatron-lm-expert-model-parallel-size", MEGA, NULL},
    {"megatron-lm-context-parallel-size", MEGA, NULL},
    {"megatron-lm-attention-dropout", MEGA, NULL},
    {"megatron-lm-hidden-dropout", MEGA, NULL},
    {"megatron-lm-attention-softmax-in-fp32", MEGA, NULL},
    {"megatron-lm-expert-tensor-parallel-size", MEGA, NULL},
    {"megatron-lm-calculate-per-token-loss", MEGA, NULL},
    {"megatron-lm-use-rotary-position-embeddings", MEGA, NULL},

    {"use-parallelism-config", PARALLELISM, SWITCH, ACC "USE_PARALLELISM_CONFIG=true", NULL},
    {"parallelism-config-dp-replicate-size", PAR, "1"},
    {"parallelism-config-dp-shard-size", PAR, "1"},
    {"parallelism-config-tp-size", PAR, "1"},
    {"parallelism-config-cp-size", PAR, "1"},
    {"parallelism-config-cp-backend", PAR, "torch"},
    {"parallelism-config-cp-comm-strategy", PAR, NULL},
    {"parallelism-config-sp-size", PAR, "1"},
    {"parallelism-config-sp-backend", PAR, "deepspeed"},
    {"parallelism-config-sp-seq-length", PAR, NULL},
    {"parallelism-config-sp-seq-length-is-variable", PAR, NULL},
    {"parallelism-config-sp-attn-implementation", PAR, NULL},

    {"fp8-backend", FP8, VALUE, ACC "FP8_BACKEND", NULL},
    {"fp8-use-autocast-during-eval", FP8, SWITCH, ACC "FP8_USE_AUTOCAST_DURING_EVAL=True", NULL},
    {"fp8-margin", FP8, VALUE, ACC "FP8_MARGIN", NULL},
    {"fp8-interval", FP8, VALUE, ACC "FP8_INTERVAL", NULL},
    {"fp8-format", FP8, VALUE, ACC "FP8_FORMAT", NULL},
    {"fp8-amax-history-len", FP8, VALUE, ACC "FP8_AMAX_HISTORY_LEN", NULL},
    {"fp8-amax-compute-algo", FP8, VALUE, ACC "FP8_AMAX_COMPUTE_ALGO", NULL},
    {"fp8-opt-level", FP8, VALUE, ACC "FP8_OPT_LEVEL", NULL},
    {"fp8-enable-fsdp-float8-all-gather", FP8, VALUE, ACC "FP8_ENABLE_FSDP_FLOAT8_ALL_GATHER",
     NULL},
    {"fp8-pad-inner-dim", FP8, VALUE, ACC "FP8_PAD_INNER_DIM", NULL},

    {"config-file", ALONE, OTHER,
     "no file of `accelerate config` is read\ntry: its settings as "
     "options; accelctl help accelerate lists them",
     NULL},
    {"gpu-ids", ALONE, OTHER, "a job is given GPUs that nobody else has\ntry: --gpus N", NULL},
    {"no-python", ALONE, OTHER, "a program that is no .py file runs as it is\ntry: leave it out",
     NULL},
    {"quiet", ALONE, OTHER, "accelctl says nothing but errors\ntry: leave it out", NULL},
    {"fp8-override-linear-precision", ALONE, OTHER,
     "it stands for three variables\ntry: --env ACCELERATE_FP8_OVERRIDE_FPROP=True, ..._DGRAD, "
     "..._WGRAD",
     NULL},
    {"machine-rank", ALONE, RANK, NULL, NULL},
    {"main-process-ip", ALONE, RANK, NULL, NULL},
    {"main-process-port", ALONE, RANK, NULL, NULL},
    {"same-network", ALONE, RANK, NULL, NULL},
    {"rdzv-backend", ALONE, RANK, NULL, NULL},
    {"rdzv-conf", ALONE, RANK, NULL, NULL},
    {"deepspeed-hostfile", ALONE, WIRING, NULL, NULL},
    {"deepspeed-exclusion-filter", ALONE, WIRING, NULL, NULL},
    {"deepspeed-inclusion-filter", ALONE, WIRING, NULL, NULL},
    {"deepspeed-multinode-launcher", ALONE, WIRING, NULL, NULL},
    {"mpirun-hostfile", ALONE, WIRING, NULL, NULL},
    {"role", ALONE, LOGS, NULL, NULL},
    {"tee", ALONE, LOGS, NULL, NULL},
    {"log-dir", ALONE, LOGS, NULL, NULL},
    {"monitor-interval", ALONE, LOGS, NULL, NULL},
    {"tpu-cluster", ALONE, TPU, NULL, NULL},
    {"no-tpu-cluster", ALONE, TPU, NULL, NULL},
    {"tpu-use-sudo", ALONE, TPU, NULL, NULL},
    {"vm", ALONE, TPU, NULL, NULL},
    {"main-training-function", ALONE, TPU, NULL, NULL},
    {"downcast-bf16", ALONE, TPU, NULL, NULL},
    {"aws-access-key-id", ALONE, CLOUD, NULL, NULL},
    {"aws-secret-access-key", ALONE, CLOUD, NULL, NULL},
};

static const char *const switches[GROUP_COUNT] = {
    [DEEPSPEED] = "use-deepspeed",
    [FSDP] = "use-fsdp",
    [MEGATRON] = "use-megatron-lm",
    [PARALLELISM] = "use-parallelism-config",
};

/* ---- looking up ---- */

const struct accelerate_row *accelerate_find(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t k = 0;

        if (strlen(rows[i].name) != len)
            continue;
        while (k < len && rows[i].name[k] == (name[k] == '_' ? '-' : name[k]))
            k++;
        if (k == len)
            return &rows[i];
    }
    return NULL;
}

bool accelerate_takes_value(const struct accelerate_row *row)
{
    return row->kind != SWITCH;
}

const char *accelerate_own_name(const struct accelerate_row *row)
{
    return row->name;
}

const char *accelerate_name(size_t i)
{
    return i < ARRAY_LEN(rows) ? rows[i].name : NULL;
}

const char *accelerate_refusal(const struct accelerate_row *row, struct arena *a)
{
    static const char *const why[] = {
        [RANK] = "every process finds its rank, address and port\ntry: leave it out",
        [WIRING] =
            "accel starts the processes on every node\ntry: --nodes N, --nodelist, --exclude",
        [LOGS] = "it is torchrun's\ntry: --label, --output PATTERN, accelctl logs",
        [TPU] = "it is of a launcher for TPU pods that Accelerate no longer has\ntry: leave it out",
        [CLOUD] = "it is for SageMaker\ntry: leave it out",
    };

    if (row->kind <= UPPER)
        return NULL;
    return arena_printf(a, "--%s: not possible\nwhy: %s", row->name,
                        row->kind == OTHER ? row->variable : why[row->kind]);
}

/* ---- variables ---- */

/* "FSDP_SHARDING_STRATEGY=FULL_SHARD", or what the switch stands for. */
static const char *text_of(const struct accelerate_row *row, const char *value, struct arena *a)
{
    char *text, *name_end;

    if (row->kind == SWITCH)
        return row->variable;
    text = arena_printf(a, "%s=%s", row->variable ? row->variable : row->name, value);
    name_end = strchr(text, '=');
    for (char *c = text; !row->variable && c < name_end; c++)
        *c = *c == '-' ? '_' : *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
    for (char *c = name_end; *c != '\0'; c++) {
        if (row->kind == LOWER && *c >= 'A' && *c <= 'Z')
            *c = (char)(*c + 32);
        if (row->kind == UPPER && *c >= 'a' && *c <= 'z')
            *c = (char)(*c - 32);
    }
    return text;
}

static const struct accelerate_row *row_of(const char *name)
{
    const struct accelerate_row *row = accelerate_find(name, strlen(name));

    CHECK(row);
    return row;
}

int accelerate_variables(const char *const *given, size_t count, struct arena *a,
                         void (*set)(void *ctx, const char *text), void *ctx,
                         struct accel_error *err)
{
    bool is_on[GROUP_COUNT] = {0};

    CHECK(count % 2 == 0);
    for (size_t i = 0; i < count; i += 2) {
        const struct accelerate_row *row = row_of(given[i]);

        if (switches[row->group] && strcmp(switches[row->group], row->name) == 0)
            is_on[row->group] = true;
    }
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (is_on[rows[i].group] && rows[i].otherwise)
            set(ctx, text_of(&rows[i], rows[i].otherwise, a));
    }
    for (size_t i = 0; i < count; i += 2) {
        const struct accelerate_row *row = row_of(given[i]);

        if (switches[row->group] && !is_on[row->group])
            return error_set(err, ACCEL_EINVAL,
                             "--%s: not possible\nwhy: without --%s Accelerate ignores it\n"
                             "try: --%s --%s",
                             row->name, switches[row->group], switches[row->group], row->name);
        set(ctx, text_of(row, given[i + 1], a));
    }
    return 0;
}

/* ---- help ---- */

void accelerate_add_help(struct str *out)
{
    static const char *const titles[GROUP_COUNT] = {
        [ALONE] = "Options of `accelerate launch` that are variables of the job:\n",
        [DEEPSPEED] = "\nDeepSpeed:\n",
        [FSDP] = "\nFSDP:\n",
        [MEGATRON] = "\nMegatron-LM:\n",
        [PARALLELISM] = "\nParallelism:\n",
        [FP8] = "\nFP8, with --mixed-precision fp8:\n",
    };
    struct arena a;

    arena_init(&a);
    for (int group = 0; group < GROUP_COUNT; group++) {
        str_adds(out, titles[group]);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            const struct accelerate_row *row = &rows[i];

            if ((int)row->group != group || row->kind > UPPER)
                continue;
            const char *text = text_of(row, row->otherwise ? row->otherwise : "...", &a);

            str_addf(out, "  --%-45s %s\n", row->name, text);
        }
    }
    str_adds(out, "\nA value shown is the one that counts when the option is not given.\n"
                  "--num-processes, --num-machines, --cpu, --multi-gpu, --mixed-precision,\n"
                  "--max-restarts and --module are options of launch: accelctl help launch.\n");
    arena_done(&a);
}
