/* JSON printed as Python prints it is JSON again, and printing that once more changes nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/utf8.h"
#include "llama4/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (int indent = 0; indent <= 4; indent += 4) {
        struct l4_buf once = {0}, twice = {0};
        struct l4_err err = {0};
        int rc = l4_json_python((const char *)data, size, indent, &once, &err);
        if (rc == 0) {
            if (!utf8_valid(once.data, once.len) || l4_json_python(once.data, once.len, indent, &twice, &err) != 0 ||
                once.len != twice.len || memcmp(once.data, twice.data, once.len) != 0)
                abort();
        } else if (rc != L4_E_INVALID || !err.message[0]) {
            abort();
        }
        l4_buf_free(&once);
        l4_buf_free(&twice);
    }
    return 0;
}
