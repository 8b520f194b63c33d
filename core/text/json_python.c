#include "core/text/json_tree.h"
#include "llama4/text.h"

int l4_json_python(const char *json, size_t len_bytes, int indent, struct l4_buf *out, struct l4_err *err) {
    struct json_tree tree = {0};
    int rc = json_tree_parse(&tree, json, len_bytes, err);
    if (rc == 0) {
        json_tree_write(&tree, JSON_TREE_ROOT, indent, out);
        if (out->failed)
            rc = l4_err_set(err, L4_E_NOMEM, "out of memory for a JSON text of %zu bytes", len_bytes);
    }
    json_tree_fini(&tree);
    return rc;
}
