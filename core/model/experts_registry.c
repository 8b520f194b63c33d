#include <stdio.h>
#include <string.h>

#include "core/model/experts_common.h"

#define X(name) &experts_##name,
static const struct experts_backend *const backends[] = {EXPERTS_BACKENDS(X) NULL};
#undef X

#define X(name) #name,
static const char *const names[] = {EXPERTS_BACKENDS(X) NULL};
#undef X

const char *const *experts_backend_names(void) {
    return names;
}

const struct experts_backend *experts_backend_choose(const struct experts_backend *backend,
                                                     const struct experts *experts, int64_t n_tokens) {
    return backend->choose ? backend->choose(experts, n_tokens) : backend;
}

int experts_forward(const struct experts_backend *backend, const struct experts *experts, const struct exec *exec,
                    struct arena *arena, const float *hidden_states, const int32_t *top_k_index,
                    const float *top_k_weights, int64_t n_tokens, float *out) {
    return backend->forward(experts, exec, arena, hidden_states, top_k_index, top_k_weights, n_tokens, out);
}

const struct experts_backend *experts_backend_at(int i) {
    int n = (int)(sizeof backends / sizeof backends[0]) - 1;
    return i >= 0 && i < n ? backends[i] : NULL;
}

int experts_backend_find(const struct experts_backend **out, const char *name, struct l4_err *err) {
    char valid[256] = "";
    size_t used = 0;
    for (int i = 0; backends[i]; i++) {
        if (strcmp(backends[i]->name, name) == 0) {
            *out = backends[i];
            return 0;
        }
        int n = snprintf(valid + used, sizeof valid - used, "%s%s", i ? ", " : "", backends[i]->name);
        used += (size_t)n < sizeof valid - used ? (size_t)n : sizeof valid - used - 1;
    }
    return l4_err_set(err, L4_E_INVALID, "experts implementation '%s' is unknown; valid are: %s", name, valid);
}
