#include "core/cache/kv.h"
