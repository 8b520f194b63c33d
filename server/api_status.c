/* The process lives; the model answers; which model it is. */
#include <cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "server/route.h"

static void reply_text(struct http_exchange *x, const char *json) {
    struct l4_buf body = {0};
    l4_buf_puts(&body, json);
    http_reply(x, 200, "application/json", &body);
}

static void reply_json(struct http_exchange *x, cJSON *take_json) {
    char *text = take_json != NULL ? cJSON_PrintUnformatted(take_json) : NULL;
    struct l4_buf body = {.failed = text == NULL};
    if (text != NULL)
        l4_buf_puts(&body, text);
    cJSON_free(text);
    cJSON_Delete(take_json);
    http_reply(x, 200, "application/json", &body);
}

void api_health(struct server *server, struct http_exchange *x) {
    (void)server;
    reply_text(x, "{\"status\": \"ok\"}");
}

void api_ready(struct server *server, struct http_exchange *x) {
    switch (server->state) {
    case SERVER_LOADING:
        http_reply_error(x, 503, NULL, "model_loading", "the model is still loading");
        break;
    case SERVER_DRAINING:
        http_reply_error(x, 503, NULL, "shutting_down", "the server is shutting down");
        break;
    case SERVER_READY:
        reply_text(x, "{\"status\": \"ready\"}");
        break;
    }
}

static cJSON *describe_model(const struct server *server) {
    const struct l4_engine_info *info = &server->info;
    cJSON *model = cJSON_CreateObject();
    cJSON_AddStringToObject(model, "id", server->model_name);
    cJSON_AddStringToObject(model, "object", "model");
    cJSON_AddNumberToObject(model, "created", (double)server->started_s);
    cJSON_AddStringToObject(model, "owned_by", "llama4d");
    cJSON_AddNumberToObject(model, "context_length", (double)info->max_context_tokens);
    cJSON_AddNumberToObject(model, "model_context_length", (double)info->model_context_tokens);
    cJSON_AddNumberToObject(model, "kv_cache_tokens", (double)info->kv_capacity_tokens);
    cJSON_AddStringToObject(model, "kv_cache_type", info->kv_cache_type);
    cJSON_AddStringToObject(model, "quantization", info->quantization);
    cJSON_AddStringToObject(model, "activations", info->activations);
    cJSON_AddStringToObject(model, "experts_implementation", info->experts_implementation);
    cJSON_AddStringToObject(model, "gemm", info->gemm);
    cJSON_AddBoolToObject(model, "batch_invariant", info->batch_invariant);
    cJSON_AddStringToObject(model, "cpu_kernels", info->cpu_kernels);
    cJSON_AddNumberToObject(model, "threads", info->threads);
    cJSON_AddNumberToObject(model, "parameters", (double)info->parameters);
    cJSON_AddNumberToObject(model, "active_parameters", (double)info->active_parameters);
    return model;
}

void api_models(struct server *server, struct http_exchange *x) {
    cJSON *list = cJSON_CreateObject();
    cJSON_AddStringToObject(list, "object", "list");
    cJSON *data = cJSON_AddArrayToObject(list, "data");
    cJSON_AddItemToArray(data, describe_model(server));
    reply_json(x, list);
}

void api_model(struct server *server, struct http_exchange *x) {
    const char *id = http_path(x) + strlen("/v1/models/");
    if (strcmp(id, server->model_name) == 0)
        reply_json(x, describe_model(server));
    else
        http_reply_error(x, 404, "model", "model_not_found", "no such model; this server has %s", server->model_name);
}
