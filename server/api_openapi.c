/* GET /openapi.json: openapi.json as it was when the program was built.  tests/http/test_openapi.py holds it to the
 * code.
 */
#include "server/route.h"

__asm__(".pushsection .rodata\n"
        ".global llama4d_openapi, llama4d_openapi_end\n"
        ".hidden llama4d_openapi, llama4d_openapi_end\n"
        "llama4d_openapi:\n"
        ".incbin \"server/openapi.json\"\n"
        "llama4d_openapi_end:\n"
        ".popsection\n");

extern const char llama4d_openapi[] __attribute__((visibility("hidden")));
extern const char llama4d_openapi_end[] __attribute__((visibility("hidden")));

void api_openapi(struct server *server, struct http_exchange *x) {
    struct l4_buf body = {0};
    (void)server;
    l4_buf_append(&body, llama4d_openapi, (size_t)(llama4d_openapi_end - llama4d_openapi));
    http_reply(x, 200, "application/json", &body);
}
