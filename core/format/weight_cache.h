/* A file that keeps packed weights, so that the next start maps them instead of packing again.
 *
 * DIR/NAME-HASH.packed, where HASH tells checkpoints and layouts apart: a header with hashes of the checkpoint's files,
 * of the layout and of every piece of the data; then the data, page-aligned.  It is written under another name, synced
 * and renamed, so that it is either whole or not there.  Nothing in it says where anything lies: that is the layout,
 * which the caller computes from the checkpoint.  Numbers are little-endian; layouts depend on the processor's byte
 * order. */
#ifndef CORE_FORMAT_WEIGHT_CACHE_H
#define CORE_FORMAT_WEIGHT_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/format/file.h"
#include "llama4/error.h"

/* What a cache must have been made of. */
struct weight_cache_key {
    const char *dir, *name;
    uint64_t checkpoint_hash; /* weight_cache_hash_file of each of its files, hashed together */
    uint64_t layout_hash;     /* of types, shapes and places of the matrices */
    size_t data_bytes;        /* > 0 */
};

/* weight_cache_hash_file - hash on from `seed`: name, size, time of change, and the bytes of the first pages and of
 * some in between, so that a file that was written anew is noticed whatever its time. */
uint64_t weight_cache_hash_file(const struct file_mapping *mapping, uint64_t seed);

/* weight_cache_map - the cache of that key, mapped; (*cache)->data is valid until close.  Header, table and a sample of
 * the pieces are checked against their hashes, all of the pieces where `verify`.
 *   Errors: L4_E_NOT_FOUND (there is none), L4_E_FORMAT (stale or damaged: err says what), L4_E_IO, L4_E_NOMEM. */
struct weight_cache {
    void *data; /* [data_bytes]; writable until sealed */
    struct file_mapping file;
    char *path, *temporary_path; /* temporary_path: of a cache that is not sealed yet, else NULL */
    int fd;                      /* -1 unless it is being written */
};
int weight_cache_map(struct weight_cache *cache, const struct weight_cache_key *key, bool verify,
                     struct l4_err *err) L4_MUST_CHECK;

/* weight_cache_create - a new file of that key, mapped for writing; disk space is taken at once.
 *   Errors: L4_E_IO (names the directory or file; no space included), L4_E_NOMEM. */
int weight_cache_create(struct weight_cache *cache, const struct weight_cache_key *key,
                        struct l4_err *err) L4_MUST_CHECK;

/* weight_cache_seal - all data are written: hash and sync them and give the file its name; an older one is replaced.
 *   Errors: L4_E_IO; the data stay usable until close, the file is not kept. */
int weight_cache_seal(struct weight_cache *cache, const struct weight_cache_key *key, struct l4_err *err) L4_MUST_CHECK;

/* weight_cache_close - all zero is allowed.  A cache that was not sealed is removed. */
void weight_cache_close(struct weight_cache *cache);

#endif
