/* One safetensors file, mapped read-only. */
#ifndef CORE_FORMAT_SAFETENSORS_H
#define CORE_FORMAT_SAFETENSORS_H

#include <stddef.h>

#include "core/format/file.h"
#include "core/format/tensor.h"
#include "llama4/error.h"

struct safetensors;

/* safetensors_open - map a file and check its whole header: types, shapes, every byte of the data section belonging to
 * exactly one tensor.  Only the header is read; a tensor's pages come in when they are first touched.
 *   Tensors are mapped, so they must lie aligned to their element size.  The writers of the safetensors library pad the
 *   header and put wide types first; a file of another writer that does not is refused rather than copied.
 *   Errors: L4_E_NOT_FOUND, L4_E_IO, L4_E_FORMAT (names the file, the tensor and the reason), L4_E_NOMEM.
 *   Source: the format description in the safetensors repository. */
int safetensors_open(struct safetensors **out, const char *path, struct l4_err *err) L4_MUST_CHECK;
void safetensors_close(struct safetensors *file);

/* The whole file.  Borrowed until close. */
const struct file_mapping *safetensors_mapping(const struct safetensors *file);
size_t safetensors_count(const struct safetensors *file);
/* In the order of the header.  Borrowed until close. */
const char *safetensors_name(const struct safetensors *file, size_t i);
const struct tensor *safetensors_at(const struct safetensors *file, size_t i);
/* NULL if there is none of that name. */
const struct tensor *safetensors_find(const struct safetensors *file, const char *name);

#endif
