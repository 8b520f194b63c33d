#include "core/engine_internal.h"
