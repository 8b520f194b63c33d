#include "core/format/shards.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/format/json.h"
#include "core/format/safetensors.h"

enum { MAX_INDEX_BYTES = 64 << 20 };

struct shard {
    char *name;               /* within the directory */
    struct safetensors *file; /* NULL until a tensor of it is asked for */
};

/* Which shard a tensor is in. */
struct place {
    char *tensor;
    size_t shard;
};

struct shard_set {
    char *dir;
    struct shard *shards; /* sorted by name */
    size_t n_shards;
    struct place *places; /* sorted by tensor; NULL for a checkpoint of one file */
    size_t n_places;
};

static int compare_shards(const void *a, const void *b) {
    return strcmp(((const struct shard *)a)->name, ((const struct shard *)b)->name);
}

static int compare_places(const void *a, const void *b) {
    return strcmp(((const struct place *)a)->tensor, ((const struct place *)b)->tensor);
}

static char *join(const char *dir, const char *name) {
    size_t n_bytes = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n_bytes);
    if (path != NULL)
        snprintf(path, n_bytes, "%s/%s", dir, name);
    return path;
}

/* A shard lies in the directory itself: an index that names anything else is not followed. */
static bool is_plain_name(const char *name) {
    for (const char *c = name; *c != '\0'; c++)
        if ((unsigned char)*c < ' ') /* it would break the line of a message */
            return false;
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* weight_map: tensor -> file.  Each file name becomes one shard, each tensor one place. */
static int read_weight_map(struct shard_set *set, struct json_object *map) {
    size_t n = (size_t)cJSON_GetArraySize(map->value);
    set->shards = calloc(n + 1, sizeof *set->shards);
    set->places = calloc(n + 1, sizeof *set->places);
    if (set->shards == NULL || set->places == NULL)
        return l4_err_set(map->err, L4_E_NOMEM, "%s: out of memory for %zu tensors", map->what, n);

    const cJSON *member;
    cJSON_ArrayForEach(member, map->value) {
        char shown[JSON_SHOWN_BYTES];
        if (!cJSON_IsString(member) || !is_plain_name(member->valuestring)) {
            json_fail(map, json_show_text(shown, member->string), member, L4_E_FORMAT,
                      "the name of a file in the same directory");
            return map->rc;
        }
        struct place *place = &set->places[set->n_places++];
        struct shard *shard = &set->shards[set->n_shards++];
        place->tensor = strdup(member->string);
        shard->name = strdup(member->valuestring);
        if (place->tensor == NULL || shard->name == NULL)
            return l4_err_set(map->err, L4_E_NOMEM, "%s: out of memory for %zu tensors", map->what, n);
    }
    qsort(set->shards, set->n_shards, sizeof *set->shards, compare_shards);
    size_t n_unique = 0;
    for (size_t i = 0; i < set->n_shards; i++) {
        if (n_unique > 0 && strcmp(set->shards[n_unique - 1].name, set->shards[i].name) == 0)
            free(set->shards[i].name);
        else
            set->shards[n_unique++] = set->shards[i];
    }
    set->n_shards = n_unique;

    size_t i = 0;
    cJSON_ArrayForEach(member, map->value) {
        const struct shard key = {.name = member->valuestring};
        const struct shard *shard = bsearch(&key, set->shards, n_unique, sizeof *set->shards, compare_shards);
        set->places[i++].shard = (size_t)(shard - set->shards);
    }
    qsort(set->places, set->n_places, sizeof *set->places, compare_places);
    return 0;
}

static int read_index(struct shard_set *set, const char *path, struct l4_err *err) {
    cJSON *root = NULL;
    int rc = json_read_file(&root, path, MAX_INDEX_BYTES, err);
    if (rc != 0)
        return rc;
    struct json_object object, map;
    json_object_init(&object, root, path, "", err);
    if (object.rc == 0) {
        json_object_init(&map, json_get(&object, "weight_map"), path, "weight_map.", err);
        rc = map.rc != 0 ? map.rc : read_weight_map(set, &map);
    } else {
        rc = object.rc;
    }
    cJSON_Delete(root);
    return rc;
}

/* One file where there is one, else the shards of the index: the order in which transformers looks. */
static int find_shards(struct shard_set *set, struct l4_err *err) {
    static const char single[] = "model.safetensors", index[] = "model.safetensors.index.json";
    char *single_path = join(set->dir, single), *index_path = join(set->dir, index);
    int rc = 0;
    if (single_path == NULL || index_path == NULL) {
        rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory", set->dir);
    } else if (access(single_path, F_OK) == 0) {
        set->shards = calloc(1, sizeof *set->shards);
        if (set->shards == NULL || (set->shards[0].name = strdup(single)) == NULL)
            rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory", set->dir);
        else
            set->n_shards = 1;
    } else if (access(index_path, F_OK) == 0) {
        rc = read_index(set, index_path, err);
    } else {
        rc = l4_err_set(err, L4_E_NOT_FOUND, "%s: holds neither %s nor %s", set->dir, single, index);
    }
    free(single_path);
    free(index_path);
    return rc;
}

static int compare_key(const void *key, const void *place) {
    return strcmp(key, ((const struct place *)place)->tensor);
}

int shard_set_find(struct shard_set *set, const char *name, const struct tensor **tensor, const char **file_name,
                   struct l4_err *err) {
    struct shard *shard = set->shards;
    *tensor = NULL;
    *file_name = NULL;
    if (set->places != NULL) {
        const struct place *place = bsearch(name, set->places, set->n_places, sizeof *set->places, compare_key);
        if (place == NULL)
            return 0;
        shard += place->shard;
    }
    if (shard->file == NULL) {
        char *path = join(set->dir, shard->name);
        int rc = path != NULL ? safetensors_open(&shard->file, path, err)
                              : l4_err_set(err, L4_E_NOMEM, "%s: out of memory", set->dir);
        free(path);
        if (rc != 0)
            return rc;
    }
    *file_name = shard->name;
    *tensor = safetensors_find(shard->file, name);
    return 0;
}

const struct file_mapping *shard_set_mapping(const struct shard_set *set, size_t i) {
    for (size_t j = 0; j < set->n_shards; j++)
        if (set->shards[j].file != NULL && i-- == 0)
            return safetensors_mapping(set->shards[j].file);
    return NULL;
}

int shard_set_open(struct shard_set **out, const char *dir, struct l4_err *err) {
    struct shard_set *set = calloc(1, sizeof *set);
    int rc;
    if (set == NULL || (set->dir = strdup(dir)) == NULL)
        rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory", dir);
    else
        rc = find_shards(set, err);
    if (rc != 0) {
        shard_set_close(set);
        return rc;
    }
    *out = set;
    return 0;
}

void shard_set_close(struct shard_set *set) {
    if (set == NULL)
        return;
    for (size_t i = 0; i < set->n_shards; i++) {
        safetensors_close(set->shards[i].file);
        free(set->shards[i].name);
    }
    for (size_t i = 0; i < set->n_places; i++)
        free(set->places[i].tensor);
    free(set->shards);
    free(set->places);
    free(set->dir);
    free(set);
}
