/* The safetensors files of a checkpoint directory as one set of named tensors. */
#ifndef CORE_FORMAT_SHARDS_H
#define CORE_FORMAT_SHARDS_H

#include "core/format/file.h"
#include "core/format/tensor.h"
#include "llama4/error.h"

struct shard_set;

/* shard_set_open - DIR/model.safetensors, or else the shards of DIR/model.safetensors.index.json.
 *   Maps no file yet.  A shard must lie in DIR itself: an index that names a path is refused.
 *   Errors: L4_E_NOT_FOUND (neither is there), L4_E_IO, L4_E_FORMAT, L4_E_NOMEM. */
int shard_set_open(struct shard_set **out, const char *dir, struct l4_err *err) L4_MUST_CHECK;
void shard_set_close(struct shard_set *set);

/* shard_set_find - a tensor and the name of its file (both borrowed until close), the file being opened when the first
 * of its tensors is asked for.  *tensor is NULL where there is none of that name; *file_name then tells the file that
 * ought to hold it, NULL if none is known.
 *   Errors: those of safetensors_open; a shard that is missing is one of them. */
int shard_set_find(struct shard_set *set, const char *name, const struct tensor **tensor, const char **file_name,
                   struct l4_err *err) L4_MUST_CHECK;

/* shard_set_mapping - of the i-th file of which a tensor was asked for, in the order of their names; NULL behind the
 * last.  Borrowed until close. */
const struct file_mapping *shard_set_mapping(const struct shard_set *set, size_t i);

#endif
