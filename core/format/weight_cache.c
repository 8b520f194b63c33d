#include "core/format/weight_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/base/sigbus.h"

enum {
    FORMAT_VERSION = 1, /* one more whenever the layout of a packed type changes */
    PIECE_BYTES = 1 << 20,
    SAMPLED_PIECES = 32,
    HEADER_SAMPLE_BYTES = 1 << 16,
    SAMPLED_PAGES = 16,
    PAGE_BYTES = 4096,
    ALIGNMENT = 1 << 16 /* of the data in the file: whole pages whatever their size */
};

struct header {
    char magic[8];
    uint32_t version, piece_bytes;
    uint64_t data_bytes, checkpoint_hash, layout_hash;
    uint64_t table_hash;
    uint64_t header_hash; /* of what stands before it */
};
static const char MAGIC[8] = "L4PACKED";

static size_t n_pieces(size_t data_bytes) {
    return (data_bytes + PIECE_BYTES - 1) / PIECE_BYTES;
}

/* Header and table, up to where the data begin. */
static size_t front_bytes(size_t data_bytes) {
    const size_t bytes = sizeof(struct header) + n_pieces(data_bytes) * sizeof(uint64_t);
    return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

static uint64_t piece_hash(const void *data, size_t data_bytes, size_t i) {
    const size_t at = i * PIECE_BYTES, rest = data_bytes - at;
    return XXH3_64bits((const char *)data + at, rest < PIECE_BYTES ? rest : PIECE_BYTES);
}

static struct header header_of(const struct weight_cache_key *key, const uint64_t *table) {
    struct header header = {.version = FORMAT_VERSION,
                            .piece_bytes = PIECE_BYTES,
                            .data_bytes = key->data_bytes,
                            .checkpoint_hash = key->checkpoint_hash,
                            .layout_hash = key->layout_hash,
                            .table_hash = XXH3_64bits(table, n_pieces(key->data_bytes) * sizeof *table)};
    memcpy(header.magic, MAGIC, sizeof header.magic);
    header.header_hash = XXH3_64bits(&header, offsetof(struct header, header_hash));
    return header;
}

uint64_t weight_cache_hash_file(const struct file_mapping *mapping, uint64_t seed) {
    const char *data = mapping->data, *name = file_name(mapping->path);
    const size_t size = mapping->size_bytes;
    const uint64_t numbers[] = {size, (uint64_t)mapping->mtime_ns};
    seed = XXH3_64bits_withSeed(name, strlen(name), seed);
    seed = XXH3_64bits_withSeed(numbers, sizeof numbers, seed);
    seed = XXH3_64bits_withSeed(data, size < HEADER_SAMPLE_BYTES ? size : HEADER_SAMPLE_BYTES, seed);
    for (size_t i = 1; size > PAGE_BYTES && i <= SAMPLED_PAGES; i++) /* the last one ends where the file does */
        seed = XXH3_64bits_withSeed(data + (size - PAGE_BYTES) / SAMPLED_PAGES * i, PAGE_BYTES, seed);
    return seed;
}

static int set_path(struct weight_cache *cache, const struct weight_cache_key *key, struct l4_err *err) {
    const uint64_t parts[] = {key->layout_hash, FORMAT_VERSION};
    *cache = (struct weight_cache){.fd = -1};
    if (asprintf(&cache->path, "%s/%s-%016llx.packed", key->dir, key->name,
                 (unsigned long long)XXH3_64bits(parts, sizeof parts)) >= 0)
        return 0;
    cache->path = NULL;
    return l4_err_set(err, L4_E_NOMEM, "%s: out of memory for a file's name", key->dir);
}

/* NULL where the file is what the key asks for, else what is wrong. */
static const char *check(const struct weight_cache *cache, const struct weight_cache_key *key, bool verify) {
    const char *file = cache->file.data;
    const uint64_t *table = (const uint64_t *)(const void *)(file + sizeof(struct header));
    const size_t n = n_pieces(key->data_bytes), step = verify || n <= SAMPLED_PIECES ? 1 : n / SAMPLED_PIECES;
    struct header header;
    if (cache->file.size_bytes < sizeof header)
        return "too short";
    memcpy(&header, file, sizeof header);
    if (memcmp(header.magic, MAGIC, sizeof header.magic) != 0 || header.version != FORMAT_VERSION ||
        header.header_hash != XXH3_64bits(&header, offsetof(struct header, header_hash)))
        return "its header is damaged";
    if (header.checkpoint_hash != key->checkpoint_hash)
        return "the checkpoint has changed";
    if (header.layout_hash != key->layout_hash || header.data_bytes != key->data_bytes ||
        header.piece_bytes != PIECE_BYTES)
        return "it was packed in another way";
    if (cache->file.size_bytes != front_bytes(key->data_bytes) + key->data_bytes)
        return "it is cut short";
    if (header.table_hash != XXH3_64bits(table, n * sizeof *table))
        return "its table is damaged";
    for (size_t i = 0; i < n; i += step)
        if (piece_hash(cache->data, key->data_bytes, i) != table[i])
            return "its data are damaged";
    return piece_hash(cache->data, key->data_bytes, n - 1) == table[n - 1] ? NULL : "its data are damaged";
}

int weight_cache_map(struct weight_cache *cache, const struct weight_cache_key *key, bool verify, struct l4_err *err) {
    int fd;
    uint64_t size_bytes;
    int rc = set_path(cache, key, err);
    if (rc == 0)
        rc = file_open(cache->path, &fd, &size_bytes, err);
    if (rc == 0) {
        rc = size_bytes == 0 ? l4_err_set(err, L4_E_FORMAT, "%s: empty", cache->path)
                             : file_map(&cache->file, fd, cache->path, size_bytes, err);
        close(fd);
    }
    if (rc == 0) {
        cache->data = (char *)cache->file.data + front_bytes(key->data_bytes);
        const char *wrong = check(cache, key, verify);
        if (wrong != NULL)
            rc = l4_err_set(err, L4_E_FORMAT, "%s: %s", cache->path, wrong);
    }
    if (rc != 0)
        weight_cache_close(cache);
    return rc;
}

int weight_cache_create(struct weight_cache *cache, const struct weight_cache_key *key, struct l4_err *err) {
    const size_t front = front_bytes(key->data_bytes);
    int rc = set_path(cache, key, err);
    if (rc != 0)
        return rc;
    if (asprintf(&cache->temporary_path, "%s.XXXXXX", cache->path) < 0) {
        cache->temporary_path = NULL;
        rc = l4_err_set(err, L4_E_NOMEM, "%s: out of memory for a file's name", cache->path);
    } else if ((cache->fd = mkostemp(cache->temporary_path, O_CLOEXEC)) < 0) {
        rc = l4_err_set(err, L4_E_IO, "%s: cannot write a weight cache: %s", key->dir, strerror(errno));
        free(cache->temporary_path);
        cache->temporary_path = NULL;
    } else if ((errno = posix_fallocate(cache->fd, 0, (off_t)(front + key->data_bytes))) != 0) {
        rc = l4_err_set(err, L4_E_IO, "%s: cannot write %zu MiB: %s", cache->path, key->data_bytes >> 20,
                        strerror(errno));
    } else {
        void *map = mmap(NULL, front + key->data_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cache->fd, 0);
        if (map == MAP_FAILED) {
            rc = l4_err_set(err, errno == ENOMEM ? L4_E_NOMEM : L4_E_IO, "%s: cannot map %zu MiB: %s", cache->path,
                            key->data_bytes >> 20, strerror(errno));
        } else {
            cache->file = (struct file_mapping){cache->path, map, front + key->data_bytes, 0};
            cache->data = (char *)map + front;
            sigbus_watch(map, cache->file.size_bytes, cache->path);
        }
    }
    if (rc != 0)
        weight_cache_close(cache);
    return rc;
}

int weight_cache_seal(struct weight_cache *cache, const struct weight_cache_key *key, struct l4_err *err) {
    uint64_t *table = (uint64_t *)(void *)((char *)cache->file.data + sizeof(struct header));
    for (size_t i = 0; i < n_pieces(key->data_bytes); i++)
        table[i] = piece_hash(cache->data, key->data_bytes, i);
    const struct header header = header_of(key, table);
    memcpy(cache->file.data, &header, sizeof header);
    if (msync(cache->file.data, cache->file.size_bytes, MS_SYNC) != 0 || fsync(cache->fd) != 0 ||
        rename(cache->temporary_path, cache->path) != 0)
        return l4_err_set(err, L4_E_IO, "%s: cannot write: %s", cache->path, strerror(errno));
    mprotect(cache->file.data, cache->file.size_bytes, PROT_READ);
    close(cache->fd);
    free(cache->temporary_path);
    cache->fd = -1;
    cache->temporary_path = NULL;
    return 0;
}

void weight_cache_close(struct weight_cache *cache) {
    if (cache->path == NULL)
        return;
    file_unmap(&cache->file);
    if (cache->fd >= 0)
        close(cache->fd);
    if (cache->temporary_path != NULL)
        unlink(cache->temporary_path);
    free(cache->temporary_path);
    free(cache->path);
    *cache = (struct weight_cache){.fd = -1};
}
