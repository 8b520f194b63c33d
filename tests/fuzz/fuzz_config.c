/* Any bytes as config.json, generation_config.json and model.safetensors.index.json: refused with a message, or values
 * within the bounds that the rest of the engine relies on. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/format/config.h"
#include "core/format/shards.h"

static const char *const names[] = {"config.json", "generation_config.json", "model.safetensors.index.json"};
static char dir[] = "/tmp/l4fuzz.XXXXXX";
static int fd = -1;

static void require(int ok) {
    if (!ok)
        abort();
}

static void remove_dir(void) {
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

/* One directory whose three files are links to the same memory. */
static void make_dir(void) {
    char path[128], target[64];
    fd = memfd_create("fuzz", MFD_CLOEXEC);
    require(fd >= 0 && mkdtemp(dir) != NULL && atexit(remove_dir) == 0);
    snprintf(target, sizeof target, "/proc/%d/fd/%d", (int)getpid(), fd);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        require(symlink(target, path) == 0);
    }
}

static void check_error(const struct l4_err *err) {
    require(err->code < 0 && err->message[0] != '\0' && strchr(err->message, '\n') == NULL);
}

static void check_config(const struct model_config *c) {
    require(c->n_layers >= 1 && c->n_layers <= CONFIG_MAX_LAYERS && c->vocab_size >= 1 && c->hidden_size >= 1);
    require(c->n_heads >= 1 && c->n_kv_heads >= 1 && c->n_heads % c->n_kv_heads == 0);
    require(c->head_dim >= 2 && c->head_dim % 2 == 0 && c->intermediate_size >= 1 && c->intermediate_size_mlp >= 1);
    require(c->n_experts >= 1 && c->n_experts_per_tok >= 1 && c->n_experts_per_tok <= c->n_experts);
    require(c->max_position_embeddings >= 1 && c->attention_chunk_size >= 1 && c->rms_norm_eps > 0);
    require(c->rope_theta >= 1 && c->floor_scale >= 1 && c->attn_scale >= 0);
    require(!c->rope_llama3 || (c->rope_factor >= 1 && c->rope_low_freq_factor > 0 && c->rope_original_context >= 1));
    require(c->bos_id >= -1 && c->bos_id < c->vocab_size && c->n_eos_ids <= CONFIG_MAX_STOP_IDS);
    for (int i = 0; i < c->n_eos_ids; i++)
        require(c->eos_ids[i] >= 0 && c->eos_ids[i] < c->vocab_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct model_config config;
    struct generation_config generation;
    struct shard_set *shards = NULL;
    struct l4_err err = {0};
    if (fd < 0)
        make_dir();
    require(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);

    if (model_config_read(&config, dir, &err) != 0)
        check_error(&err);
    else
        check_config(&config);
    if (generation_config_read(&generation, dir, 2048, &err) != 0)
        check_error(&err);
    else
        require(generation.top_k >= 0 && generation.n_eos_ids <= CONFIG_MAX_STOP_IDS);
    if (shard_set_open(&shards, dir, &err) != 0) {
        check_error(&err);
        return 0;
    }
    const struct tensor *tensor;
    const char *file_name;
    if (shard_set_find(shards, "a", &tensor, &file_name, &err) != 0)
        check_error(&err);
    shard_set_close(shards);
    return 0;
}
